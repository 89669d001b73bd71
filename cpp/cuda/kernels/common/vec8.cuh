// Vectors of eight elements, as threads read them from rows in shared memory.
#pragma once

#include "cuda/kernels/common/storage.cuh"

namespace transnext::device {

template <class T>
struct alignas(16) Vec8 {
  T values[8];
};

// `from` and `to` are aligned to 16 bytes.
template <class T>
__device__ inline void load_vec8(const T* from, float (&to)[8]) {
  const Vec8<T> run = *reinterpret_cast<const Vec8<T>*>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = to_float(run.values[i]);
}

// One instruction turns each half of a register of BFloat16 into a float.
__device__ inline void load_vec8(const BFloat16* from, float (&to)[8]) {
  struct Pairs {
    unsigned values[4];
  };
  const Pairs run = __builtin_bit_cast(Pairs, *reinterpret_cast<const Vec8<BFloat16>*>(from));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = bits_to_float(run.values[i] << 16);
    to[2 * i + 1] = bits_to_float(run.values[i] & 0xffff0000u);
  }
}

template <class T>
__device__ inline void store_vec8(const float (&from)[8], T* to) {
  Vec8<T> run;
#pragma unroll
  for (int i = 0; i < 8; ++i) from_float(from[i], run.values[i]);
  *reinterpret_cast<Vec8<T>*>(to) = run;
}

// sum + a . b
template <class T>
__device__ inline float dot_vec8(const T* a, const float (&b)[8], float sum) {
  float x[8];
  load_vec8(a, x);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += x[i] * b[i];
  return sum;
}

}  // namespace transnext::device
