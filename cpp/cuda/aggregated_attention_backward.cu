#include "cuda/kernel_table.h"
#include "device/aggregated_attention_backward.cuh"

namespace transnext::cuda {

KernelTable aggregated_attention_backward_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/aggregated_attention_backward.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
