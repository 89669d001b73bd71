#include "cuda/compiled/kernel_table.h"
#include "cuda/kernels/window/window.cuh"

namespace transnext::cuda {

KernelTable window_kernels() {
  static const Kernel kernels[] = {
#include "cuda/instances/window.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
