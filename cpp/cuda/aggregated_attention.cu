#include "cuda/kernel_table.h"
#include "device/aggregated_attention_forward.cuh"

namespace transnext::cuda {

KernelTable aggregated_attention_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/aggregated_attention.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
