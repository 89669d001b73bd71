// All kernels, or the groups of them that TRANSNEXT_KERNELS says: one file for each set of GPUs.
#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/attention/forward/aggregated_attention_forward.cuh"

namespace transnext::cuda {

static const Kernel kKernels[] = {
#include "cuda/instances/aggregated_attention.inc"
};
TRANSNEXT_KERNEL_TABLE(aggregated_attention_kernels, kKernels)

}  // namespace transnext::cuda
