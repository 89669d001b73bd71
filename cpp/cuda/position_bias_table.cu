#include "cuda/kernel_table.h"
#include "device/position_bias_table.cuh"

namespace transnext::cuda {

KernelTable position_bias_table_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/position_bias_table.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
