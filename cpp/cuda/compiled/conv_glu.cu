#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/glu/conv_glu.cuh"

namespace transnext::cuda {

KernelTable conv_glu_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/conv_glu.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
