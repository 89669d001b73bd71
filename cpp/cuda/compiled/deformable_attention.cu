#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/deformable/deformable_attention.cuh"

namespace transnext::cuda {

KernelTable deformable_attention_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/deformable_attention.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
