// All kernels, or the groups of them that TRANSNEXT_KERNELS says: one file for each set of GPUs.
#include "cuda/kernel_table.h"
#include "device/aggregated_attention_forward.cuh"

namespace transnext::cuda {

static const Kernel kKernels[] = {
#include "device/kernels/aggregated_attention.inc"
};
TRANSNEXT_KERNEL_TABLE(aggregated_attention_kernels, kKernels)

}  // namespace transnext::cuda
