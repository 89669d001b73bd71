#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/norm/add_layer_norm.cuh"

namespace transnext::cuda {

KernelTable add_layer_norm_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/add_layer_norm.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
