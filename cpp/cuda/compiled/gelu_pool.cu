#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/pool/gelu_pool.cuh"

namespace transnext::cuda {

KernelTable gelu_pool_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/gelu_pool.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
