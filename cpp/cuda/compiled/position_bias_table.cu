#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/bias/position_bias_table.cuh"

namespace transnext::cuda {

KernelTable position_bias_table_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/position_bias_table.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
