// Runs of eight elements, as threads read them from rows in shared memory.
#pragma once

#include "cuda/kernels/common/storage.cuh"

namespace transnext::device {

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

// Pairs of BFloat16 in a register are two floats by one instruction each.
__device__ inline void read_eight(const BFloat16* from, float (&to)[8]) {
  struct Pairs {
    unsigned values[4];
  };
  const Pairs run = __builtin_bit_cast(Pairs, *reinterpret_cast<const Eight<BFloat16>*>(from));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = bits_to_float(run.values[i] << 16);
    to[2 * i + 1] = bits_to_float(run.values[i] & 0xffff0000u);
  }
}

template <class T>
__device__ inline void write_eight(const float (&from)[8], T* to) {
  Eight<T> run;
#pragma unroll
  for (int i = 0; i < 8; ++i) from_float(from[i], run.values[i]);
  *reinterpret_cast<Eight<T>*>(to) = run;
}

// sum + a . b
template <class T>
__device__ inline float dot_eight(const T* a, const float (&b)[8], float sum) {
  float x[8];
  read_eight(a, x);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += x[i] * b[i];
  return sum;
}

}  // namespace transnext::device
