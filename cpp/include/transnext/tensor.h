// The types that cross every boundary of the library: element types, grids and strided tensor
// views. Read by the host compiler, nvcc and NVRTC alike, so no standard header is included.
#pragma once

// The small functions of these headers are always inlined: the linker keeps one copy of a function
// for all files, and that could contain instructions that the processor lacks.
#if defined(__CUDACC__)
#define TRANSNEXT_INLINE __host__ __device__ __forceinline__
#else
#define TRANSNEXT_INLINE inline __attribute__((always_inline))
#endif

namespace transnext {

// Every size, stride and offset, counted in elements: tensors may have more than 2^31 of them.
using index_t = long long;

enum class DType : int { kFloat16, kBFloat16, kFloat32, kFloat64, kInt32 };

// In bytes.
TRANSNEXT_INLINE index_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 || dtype == DType::kInt32 ? 4 : 2;
}

// 16-bit storage formats, as bit patterns. Arithmetic is done in float (see half.h).
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

// As a kernel's type: tensors hold float, and tensor cores multiply them rounded to TF32, with 10
// bits of mantissa.
struct TensorFloat32 {};

struct Grid {
  index_t height;
  index_t width;

  TRANSNEXT_INLINE index_t size() const { return height * width; }
};

// A tensor owned by the caller. An absent optional tensor has data == nullptr.
template <int kRank>
struct View {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  index_t shape[kRank] = {};
  index_t stride[kRank] = {};

  TRANSNEXT_INLINE bool present() const { return data != nullptr; }
};

}  // namespace transnext
