#include "cuda/kernel_table.h"
#include "device/window.cuh"

namespace transnext::cuda {

KernelTable window_kernels() {
  static const Kernel kernels[] = {
#include "device/kernels/window.inc"
  };
  return table_of(kernels);
}

}  // namespace transnext::cuda
