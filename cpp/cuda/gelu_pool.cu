#include "cuda/kernel_table.h"
#include "device/gelu_pool.cuh"

namespace transnext::cuda {

KernelTable gelu_pool_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/gelu_pool.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
