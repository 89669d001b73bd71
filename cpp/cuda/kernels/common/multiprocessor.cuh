// Properties of a multiprocessor by architecture, which the register budget depends on.
#pragma once

namespace transnext::device {

// Most resident threads of a multiprocessor of the architecture that code is compiled for, which is
// 8.0 in a library for several from there on, but for the files of transnext_generate_code_by_threads
// (cpp/cmake/CudaArchitectures.cmake).
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
