// The CUDA C++ that the kernels use, for a host compiler. Included before any kernel.
#pragma once

#if !defined(TRANSNEXT_EMULATION)
#error "kernels are compiled for the emulation with -DTRANSNEXT_EMULATION"
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <math.h>

#include "emulation/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time. See emulation/shared_memory.h for why thread_local.
#define __shared__ static thread_local

#define threadIdx (::transnext::emulation::thread_index)
#define blockIdx (::transnext::emulation::block_index)
#define blockDim (::transnext::emulation::block_size)
#define gridDim (::transnext::emulation::grid_size)
constexpr int warpSize = 32;

// Built-in vector types with CUDA's alignment, which the compiler checks.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline ushort2 make_ushort2(unsigned short x, unsigned short y) {
  return {x, y};
}
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z,
                            unsigned short w) {
  return {x, y, z, w};
}

using std::max;
using std::min;

inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}
inline float __expf(float x) {
  return expf(x);
}
inline float __logf(float x) {
  return logf(x);
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fmaf_rn(float x, float y, float z) {
  return fmaf(x, y, z);
}
inline int __float2int_rn(float x) {
  return static_cast<int>(nearbyintf(x));
}
inline long long __double2ll_rn(double x) {
  return llrint(x);
}
template <class To, class From>
inline To transnext_bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) {
  return transnext_bits_as<unsigned>(x);
}
inline int __float_as_int(float x) {
  return transnext_bits_as<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return transnext_bits_as<float>(x);
}
inline float __int_as_float(int x) {
  return transnext_bits_as<float>(x);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>((std::uint64_t{x} * y) >> 32);
}
template <class T>
inline T __ldg(const T* pointer) {
  return *pointer;
}

// Threads switch only where they wait, so plain updates are atomic.
template <class T>
inline T atomicAdd(T* target, T value) {
  const T before = *target;
  *target = before + value;
  return before;
}
template <class T>
inline T atomicMax(T* target, T value) {
  const T before = *target;
  *target = before < value ? value : before;
  return before;
}
template <class T>
inline T atomicExch(T* target, T value) {
  const T before = *target;
  *target = value;
  return before;
}
template <class T>
inline T atomicCAS(T* target, T expected, T value) {
  const T before = *target;
  if (before == expected) *target = value;
  return before;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// The line is the caller's: it distinguishes one barrier from another.
inline void __syncthreads(int line = __builtin_LINE()) {
  transnext::emulation::barrier({"__syncthreads", line});
}
inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
  return transnext::emulation::barrier_count({"__syncthreads_or", line}, value) > 0;
}
inline int __syncthreads_count(int value, int line = __builtin_LINE()) {
  return static_cast<int>(
      transnext::emulation::barrier_count({"__syncthreads_count", line}, value));
}
inline int __syncthreads_and(int value, int line = __builtin_LINE()) {
  return transnext::emulation::barrier_count({"__syncthreads_and", line}, value == 0) == 0;
}

#include "emulation/warp.h"
