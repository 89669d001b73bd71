// Vectors of the compute type C (float or double), as wide as this level's registers, by the
// compilers' own vector types: ordinary operators, every architecture.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/level.h"
#include "transnext/tensor.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class C>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int Mask __attribute__((vector_size(kVectorBytes)));
  using MaskLane = int;
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef long long Mask __attribute__((vector_size(kVectorBytes)));
  using MaskLane = long long;
};

template <class C>
using Vector = typename Simd<C>::Vector;
// All bits of a lane set or none, as comparisons give it and `mask ? a : b` takes it.
template <class C>
using Mask = typename Simd<C>::Mask;
template <class C>
using MaskLane = typename Simd<C>::MaskLane;

template <class C>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

template <class V, class Lane>
inline V load(const Lane* source) {
  V vector;
  __builtin_memcpy(&vector, source, sizeof(V));
  return vector;
}

template <class V, class Lane>
inline void store(Lane* target, V vector) {
  __builtin_memcpy(target, &vector, sizeof(V));
}

template <class C>
inline Vector<C> broadcast(C value) {
  return value - Vector<C>{};
}

// b where either is NaN, as the x86 instructions have it. GCC 12 does not see the instruction in the
// comparison. Masked where it warns of the undefined operand inside the unmasked form.
#if defined(__AVX512F__)
inline Vector<float> maximum(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
inline Vector<double> maximum(Vector<double> a, Vector<double> b) {
  return _mm512_maskz_max_pd(0xff, a, b);
}
inline Vector<float> minimum(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
inline Vector<double> minimum(Vector<double> a, Vector<double> b) {
  return _mm512_maskz_min_pd(0xff, a, b);
}
#elif defined(__AVX2__)
inline Vector<float> maximum(Vector<float> a, Vector<float> b) {
  return _mm256_max_ps(a, b);
}
inline Vector<double> maximum(Vector<double> a, Vector<double> b) {
  return _mm256_max_pd(a, b);
}
inline Vector<float> minimum(Vector<float> a, Vector<float> b) {
  return _mm256_min_ps(a, b);
}
inline Vector<double> minimum(Vector<double> a, Vector<double> b) {
  return _mm256_min_pd(a, b);
}
#else
template <class V>
inline V maximum(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V minimum(V a, V b) {
  return a < b ? a : b;
}
#endif

template <class C>
inline C sum_lanes(Vector<C> vector) {
  C sum = 0;
  for (int lane = 0; lane < kLanes<C>; ++lane) sum += vector[lane];
  return sum;
}

inline index_t round_up(index_t value, index_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline index_t smaller(index_t a, index_t b) {
  return a < b ? a : b;
}
inline index_t larger(index_t a, index_t b) {
  return a > b ? a : b;
}

TRANSNEXT_END_LEVEL
