// All kernels, or the groups of them that TRANSNEXT_KERNELS says: one file for each set of GPUs.
#include "cuda/kernel_table.h"
#include "device/aggregated_attention_backward.cuh"

namespace transnext::cuda {

static const Kernel kKernels[] = {
#include "device/kernels/aggregated_attention_backward.inc"
};
TRANSNEXT_KERNEL_TABLE(aggregated_attention_backward_kernels, kKernels)

}  // namespace transnext::cuda
