// Runs of consecutive channels: n elements that one thread reads or writes as floats, with a single
// access where the tensor's layout allows it, and element by element, perhaps fewer at the end,
// elsewhere.
#pragma once

#include "cuda/kernels/common/storage.cuh"
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

// A run in its storage type: a thread that converted right after each of several loads would wait
// for one after the other. Elements of 16 bits are kept two to a register, which compilers would
// not do.
template <class T, int n>
class RawRun {
 public:
  // Loads `count` elements, at most n, from `from`; the others are zero, as all are initially.
  __device__ void load(const T* from, index_t stride, index_t count, bool runs) {
    if (runs) {
      words_ = *reinterpret_cast<const Words*>(from);
      return;
    }
    Run<T, n> run{};
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (i < count) run.values[i] = from[i * stride];
    }
    words_ = __builtin_bit_cast(Words, run);
  }

  __device__ void read(float (&to)[n]) const {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = element(i, T{});
  }

 private:
  static constexpr int kInWord = 4 / static_cast<int>(sizeof(T));
  struct alignas(n * sizeof(T)) Words {
    unsigned values[n / kInWord] = {};
  };

  __device__ float element(int i, float) const { return bits_to_float(words_.values[i]); }
  __device__ float element(int i, Half) const {
    const unsigned word = words_.values[i / 2];
    return to_float(Half{static_cast<unsigned short>(i % 2 == 0 ? word & 0xffffu : word >> 16)});
  }
  __device__ float element(int i, BFloat16) const {
    const unsigned word = words_.values[i / 2];
    return bits_to_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }

  Words words_;
};

template <int bytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using Type = unsigned short;
};
template <>
struct BitsOf<4> {
  using Type = unsigned;
};

// The same for a single element, in a register of its own.
template <class T>
class RawElement {
 public:
  __device__ void load(const T* from) { bits_ = *reinterpret_cast<const Bits*>(from); }
  __device__ float read() const { return value(T{}); }

 private:
  using Bits = typename BitsOf<sizeof(T)>::Type;
  __device__ float value(float) const { return bits_to_float(bits_); }
  __device__ float value(BFloat16) const { return bits_to_float(bits_ << 16); }
  __device__ float value(Half) const { return to_float(Half{static_cast<unsigned short>(bits_)}); }

  unsigned bits_ = 0;
};

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
