#include "cuda/kernel_table.h"
#include "device/conv_glu.cuh"

namespace transnext::cuda {

KernelTable conv_glu_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/conv_glu.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
