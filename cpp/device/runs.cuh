// Runs of consecutive channels: n elements that one thread reads or writes as floats, with a single
// access where the tensor's layout lets it, element by element (and short at the end) elsewhere.
#pragma once

#include "device/storage.cuh"
#include "transnext/tensor.h"

namespace transnext::device {

template <class T, int n>
struct alignas(n * sizeof(T)) Run {
  T values[n];
};

// True if every run of n channels that starts at a multiple of n is one aligned access.
template <class T, int n, int kRank>
__device__ inline bool has_runs(const View<kRank>& view) {
  bool aligned = reinterpret_cast<unsigned long long>(view.data) % sizeof(Run<T, n>) == 0 &&
                 view.shape[kRank - 1] % n == 0 && view.stride[kRank - 1] == 1;
  for (int axis = 0; axis < kRank - 1; ++axis) aligned &= view.stride[axis] % n == 0;
  return aligned;
}

// `count` elements (or n, if that is less) lie at `from`; the others are zero.
template <int n, class T>
__device__ inline void load_run(const T* from, index_t stride, index_t count, bool runs,
                                float (&to)[n]) {
  if (runs) {
    const Run<T, n> run = *reinterpret_cast<const Run<T, n>*>(from);
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = to_float(run.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = i < count ? to_float(from[i * stride]) : 0.0f;
  }
}

template <int n, class T>
__device__ inline void store_run(T* to, index_t stride, index_t count, bool runs,
                                 const float (&from)[n]) {
  if (runs) {
    Run<T, n> run;
#pragma unroll
    for (int i = 0; i < n; ++i) from_float(from[i], run.values[i]);
    *reinterpret_cast<Run<T, n>*>(to) = run;
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (i < count) from_float(from[i], to[i * stride]);
    }
  }
}

}  // namespace transnext::device
