// Elements of the storage types as floats, in device code. The kernels' inline PTX lives in
// wrappers like these, each next to its meaning for a host compiler.
#pragma once

#include "transnext/half.h"

namespace transnext {

// The element type of the tensors of a kernel of T.
template <class T>
struct StorageOf {
  using Type = T;
};
template <>
struct StorageOf<TensorFloat32> {
  using Type = float;
};
template <class T>
using Stored = typename StorageOf<T>::Type;

template <class T>
struct RoundsToTensorFloat {
  static constexpr bool value = false;
};
template <>
struct RoundsToTensorFloat<TensorFloat32> {
  static constexpr bool value = true;
};

// Whether the GEMMs of a kernel of T run on tensor cores.
template <class T>
struct OnTensorCores {
  static constexpr bool value = true;
};
template <>
struct OnTensorCores<float> {
  static constexpr bool value = false;
};

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(BFloat16 x) {
  return bfloat16_to_float(x);
}
__device__ inline float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  return half_to_float(x);
#endif
}

__device__ inline void from_float(float x, float& target) {
  target = x;
}
__device__ inline void from_float(float x, BFloat16& target) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(target.bits) : "f"(x));
#else
  target = float_to_bfloat16(x);
#endif
}
__device__ inline void from_float(float x, Half& target) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(target.bits) : "f"(x));
#else
  target = float_to_half(x);
#endif
}

namespace device {

// Two 16-bit neighbours in a register, the first one in its low half: as floats,
template <class T>
__device__ inline float2 floats_of(unsigned pair) {
  return {to_float(T{static_cast<unsigned short>(pair)}),
          to_float(T{static_cast<unsigned short>(pair >> 16)})};
}

// and rounded.
template <class T>
__device__ inline unsigned pack(float first, float second) {
  T low;
  T high;
  from_float(first, low);
  from_float(second, high);
  return static_cast<unsigned>(high.bits) << 16 | low.bits;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
__device__ inline unsigned pack<Half>(float first, float second) {
  unsigned both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
template <>
__device__ inline unsigned pack<BFloat16>(float first, float second) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
#endif

}  // namespace device

}  // namespace transnext
