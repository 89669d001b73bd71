// Properties of a multiprocessor by architecture, which the register budget depends on.
#pragma once

namespace transnext::device {

// Most resident threads of a multiprocessor; from 8.0 on of the largest, since one PTX serves all of them.
__host__ __device__ constexpr int multiprocessor_threads() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return 1024;
#else
  return 2048;
#endif
}

}  // namespace transnext::device
