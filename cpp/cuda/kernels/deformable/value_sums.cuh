// The sums that become d_value, which many queries add to: floats, or whole numbers whose sums have
// the same bits in any order.
//
// A whole number counts units of 2^-power, so chosen that the sum of all contributions, each at
// most the largest |d_out|, and at most one of them per query in total, stays below 2^61: the
// rounding of a contribution is far below that of a float. Where d_out or a weight is no finite
// number, no unit exists and all of d_value becomes NaN.
#pragma once

#include "cuda/kernels/common/small_divisor.cuh"
#include "cuda/kernels/common/storage.cuh"
#include "cuda/kernels/deformable/deformable_attention_shape.h"

namespace transnext {

namespace device {

constexpr unsigned kInfinityBits = 0x7f800000u;
constexpr unsigned kNanBits = 0x7fc00000u;

template <bool kOrdered>
class ValueSums;

template <>
class ValueSums<false> {
 public:
  __device__ explicit ValueSums(const DeformableBackwardLaunch& p)
      : data_(p.workspace != nullptr ? p.workspace : static_cast<float*>(p.call.d_value.data)) {}

  __device__ void clear(index_t offset) const { data_[offset] = 0.0f; }
  __device__ void add(index_t offset, float x) const { atomicAdd(data_ + offset, x); }
  __device__ float read(index_t offset) const { return data_[offset]; }

 private:
  float* data_;
};

template <>
class ValueSums<true> {
 public:
  __device__ explicit ValueSums(const DeformableBackwardLaunch& p)
      : data_(reinterpret_cast<unsigned long long*>(p.workspace)),
        largest_(reinterpret_cast<unsigned*>(data_ + p.elements)),
        power_(60 - p.bits_of_queries) {}

  __device__ void clear(index_t offset) const {
    data_[offset] = 0;
    if (offset == 0) *largest_ = 0;
  }
  // The bits of a number that is not negative, or of a NaN, grow with it.
  __device__ void raise_largest(unsigned bits) const { atomicMax(largest_, bits); }
  // To be called when the largest is known.
  __device__ void find_unit() {
    const unsigned bits = *largest_;
    is_finite_ = bits < kInfinityBits;
    power_ -= static_cast<int>(bits >> 23) - 127;
  }

  __device__ void add(index_t offset, float x) const {
    if (!is_finite_) return;
    if ((__float_as_uint(x) & 0x7fffffffu) >= kInfinityBits) return raise_largest(kNanBits);
    const long long units = __double2ll_rn(static_cast<double>(x) * power_of_two(power_));
    atomicAdd(data_ + offset, static_cast<unsigned long long>(units));
  }
  __device__ float read(index_t offset) const {
    if (!is_finite_) return __uint_as_float(kNanBits);
    const auto units = static_cast<long long>(data_[offset]);
    return static_cast<float>(static_cast<double>(units) * power_of_two(-power_));
  }

 private:
  static __device__ double power_of_two(int power) {
    return __builtin_bit_cast(double, static_cast<unsigned long long>(power + 1023) << 52);
  }

  unsigned long long* data_;
  unsigned* largest_;
  int power_;
  bool is_finite_ = true;
};

struct Indices {
  index_t of[4];

  __device__ index_t offset(const index_t (&stride)[4]) const {
    return of[0] * stride[0] + of[1] * stride[1] + of[2] * stride[2] + of[3] * stride[3];
  }
};

// Calls visit(indices) for this thread's elements of a tensor of these sizes, the last fastest.
template <class Visit>
__device__ inline void for_each_element(const index_t (&shape)[4], const Visit& visit) {
  const index_t elements = shape[0] * shape[1] * shape[2] * shape[3];
  for (index_t i = index_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements;
       i += index_t{gridDim.x} * blockDim.x) {
    const index_t c = quotient(i, shape[3]);
    const index_t b = quotient(c, shape[2]);
    const index_t a = quotient(b, shape[1]);
    visit(Indices{{a, b - a * shape[1], c - b * shape[2], i - c * shape[3]}});
  }
}

}  // namespace device

// Sets the sums to zero. Block (kDeformableThreads). Grid: tiles of elements.
template <bool kOrdered>
__global__ void __launch_bounds__(kDeformableThreads)
    deformable_attention_clear(DeformableBackwardLaunch p) {
  const device::ValueSums<kOrdered> sums(p);
  device::for_each_element(p.call.in.value.shape,
                           [&](const device::Indices& at) { sums.clear(at.offset(p.stride)); });
}

// Finds the largest |d_out|. Block (kDeformableThreads). Grid: tiles of elements.
template <class T>
__global__ void __launch_bounds__(kDeformableThreads)
    deformable_attention_largest(DeformableBackwardLaunch p) {
  unsigned largest = 0;
  const View<4>& d_out = p.call.d_out;
  device::for_each_element(d_out.shape, [&](const device::Indices& at) {
    const float x = to_float(static_cast<const T*>(d_out.data)[at.offset(d_out.stride)]);
    const unsigned bits = __float_as_uint(x) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  });
  for (int distance = 16; distance > 0; distance /= 2) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, largest, distance);
    largest = other > largest ? other : largest;
  }
  if (threadIdx.x % 32 == 0) device::ValueSums<true>(p).raise_largest(largest);
}

// d_value from the sums. Block (kDeformableThreads). Grid: tiles of elements.
template <class T, bool kOrdered>
__global__ void __launch_bounds__(kDeformableThreads)
    deformable_attention_store(DeformableBackwardLaunch p) {
  device::ValueSums<kOrdered> sums(p);
  if constexpr (kOrdered) sums.find_unit();
  const View<4>& to = p.call.d_value;
  device::for_each_element(to.shape, [&](const device::Indices& at) {
    from_float(sums.read(at.offset(p.stride)), static_cast<T*>(to.data)[at.offset(to.stride)]);
  });
}

}  // namespace transnext
