// What architectures differ in and registers are shared out by.
#pragma once

namespace transnext::device {

// Threads that a multiprocessor takes.
__host__ __device__ constexpr int multiprocessor_threads() {
#if !defined(__CUDA_ARCH__)
  return 2048;
#elif __CUDA_ARCH__ < 800
  return 1024;
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  return 1536;
#else
  return 2048;
#endif
}

}  // namespace transnext::device
