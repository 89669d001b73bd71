// Runs of eight elements, as threads read them from rows in shared memory.
#pragma once

#include "device/storage.cuh"

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
