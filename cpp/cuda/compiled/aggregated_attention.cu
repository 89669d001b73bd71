// All kernels, or the groups selected by TRANSNEXT_KERNELS: one object per set of GPUs.
#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/attention/forward/aggregated_attention_forward.cuh"

namespace transnext::cuda {

static const Kernel kKernels[] = {
#include "cuda/instances/aggregated_attention.inc"
};
TRANSNEXT_KERNEL_TABLE(aggregated_attention_kernels, kKernels)

}  // namespace transnext::cuda
