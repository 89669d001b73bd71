// Two neighbouring 16-bit elements in one register, as the operands of tensor cores hold them, and
// runs of eight elements, as threads read them from shared memory.
#pragma once

#include "device/storage.cuh"

namespace transnext::device {

template <class T>
__device__ inline unsigned pack(float low, float high, T) {
  T pair[2];
  from_float(low, pair[0]);
  from_float(high, pair[1]);
  return pair[0].bits | static_cast<unsigned>(pair[1].bits) << 16;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(TRANSNEXT_EMULATION)
__device__ inline unsigned pack(float low, float high, Half) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline unsigned pack(float low, float high, BFloat16) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

template <class T>
struct alignas(16) Eight {
  T values[8];
};

// `from` and `to` are multiples of 16 bytes.
template <class T>
__device__ inline void read_eight(const T* from, float (&to)[8]) {
  const Eight<T> run = *reinterpret_cast<const Eight<T>*>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = to_float(run.values[i]);
}

template <class T>
__device__ inline void write_eight(const float (&from)[8], T* to) {
  Eight<T> run;
#pragma unroll
  for (int i = 0; i < 8; ++i) from_float(from[i], run.values[i]);
  *reinterpret_cast<Eight<T>*>(to) = run;
}

template <class T>
__device__ inline float dot_eight(const T* a, const float (&b)[8]) {
  float x[8], sum = 0.0f;
  read_eight(a, x);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += x[i] * b[i];
  return sum;
}

}  // namespace transnext::device
