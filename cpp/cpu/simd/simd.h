// Vectors of the compute type C (float or double), as wide as this level's registers. They are the
// compilers' own vector types, with ordinary operators on every architecture.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "cpu/runtime/level.h"
#include "transnext/tensor.h"

// Keeps the phases of a kernel from being inlined into one another: they would compete for
// registers, and the kernel would be up to a tenth slower, varying with every change.
#define TRANSNEXT_PHASE __attribute__((noinline))

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
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef int Mask __attribute__((vector_size(kVectorBytes)));
  using MaskLane = int;
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef double Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef long long Mask __attribute__((vector_size(kVectorBytes)));
  using MaskLane = long long;
};

template <class C>
using Vector = typename Simd<C>::Vector;
// Half as many lanes: the rest of head dim 24 after a whole vector of 16 floats.
template <class C>
using HalfVector = typename Simd<C>::Half;
// Each lane has all bits set or none, as comparisons return and `mask ? a : b` expects.
template <class C>
using Mask = typename Simd<C>::Mask;
template <class C>
using MaskLane = typename Simd<C>::MaskLane;

template <class C>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

template <class V>
using LaneOf = std::remove_reference_t<decltype((*static_cast<V*>(nullptr))[0])>;

// An unaligned vector of lanes of its own type. Bytes may alias anything, so compilers would reload
// a kernel's pointers and sizes after every store of bytes; this type avoids that.
template <class V>
struct Lanes {
  typedef V Unaligned __attribute__((aligned(alignof(LaneOf<V>))));
};

template <class V, class Lane>
inline V load(const Lane* source) {
  if constexpr (std::is_same_v<LaneOf<V>, Lane>) {
    return *reinterpret_cast<const typename Lanes<V>::Unaligned*>(source);
  } else {  // 16-bit storage
    V vector;
    __builtin_memcpy(&vector, source, sizeof(V));
    return vector;
  }
}

template <class V, class Lane>
inline void store(Lane* target, V vector) {
  if constexpr (std::is_same_v<LaneOf<V>, Lane>) {
    *reinterpret_cast<typename Lanes<V>::Unaligned*>(target) = vector;
  } else {
    __builtin_memcpy(target, &vector, sizeof(V));
  }
}

template <class C>
inline Vector<C> broadcast(C value) {
  return value - Vector<C>{};
}

// 0, 1, 2 .. in the lanes.
template <class C>
inline Mask<C> lane_numbers() {
  Mask<C> numbers;
  for (int lane = 0; lane < kLanes<C>; ++lane) numbers[lane] = lane;
  return numbers;
}

// b where either is NaN, as the x86 instructions define it. GCC 12 does not recognise the
// instruction in the comparison. The masked form, because it warns of the undefined operand inside
// the unmasked one.
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

// value in the valid lanes, 0 in the others, whatever they hold.
template <class C>
inline Vector<C> masked(Vector<C> value, Mask<C> valid) {
  return reinterpret_cast<Vector<C>>(reinterpret_cast<Mask<C>>(value) & valid);
}

// By halves: each step adds the upper to the lower half.
template <class C>
inline C sum_lanes(Vector<C> vector) {
  HalfVector<C> halves[2];
  __builtin_memcpy(halves, &vector, sizeof(vector));
  const HalfVector<C> both = halves[0] + halves[1];
  if constexpr (kVectorBytes == 64) {
    typedef C Quarter __attribute__((vector_size(kVectorBytes / 4)));
    Quarter quarters[2];
    __builtin_memcpy(quarters, &both, sizeof(both));
    const Quarter rest = quarters[0] + quarters[1];
    C sum = 0;
    for (int lane = 0; lane < kLanes<C> / 4; ++lane) sum += rest[lane];
    return sum;
  }
  C sum = 0;
  for (int lane = 0; lane < kLanes<C> / 2; ++lane) sum += both[lane];
  return sum;
}

// A mask in this level's most compact form: one bit per lane, or the mask itself.
#if defined(__AVX512DQ__)
template <class C>
using LaneSet = unsigned;

template <class C>
inline LaneSet<C> lanes_of(Mask<C> mask) {
  if constexpr (sizeof(C) == 4) return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
  if constexpr (sizeof(C) == 8) return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
}

// The lanes where 0 <= value < extent.
template <class C>
inline LaneSet<C> lanes_within(Mask<C> value, MaskLane<C> extent) {
  const auto values = reinterpret_cast<__m512i>(value);
  if constexpr (sizeof(C) == 4) return _mm512_cmplt_epu32_mask(values, _mm512_set1_epi32(extent));
  if constexpr (sizeof(C) == 8) return _mm512_cmplt_epu64_mask(values, _mm512_set1_epi64(extent));
}

template <class C>
inline bool any_lane(LaneSet<C> lanes) {
  return lanes != 0;
}
template <class C>
inline bool all_lanes(LaneSet<C> lanes) {
  return lanes == (1u << kLanes<C>)-1;
}

// a in the lanes, b in the others.
template <class C>
inline Vector<C> select(LaneSet<C> lanes, Vector<C> a, Vector<C> b) {
  if constexpr (sizeof(C) == 4)
    return reinterpret_cast<Vector<C>>(_mm512_mask_blend_ps(
        static_cast<__mmask16>(lanes), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
  if constexpr (sizeof(C) == 8)
    return reinterpret_cast<Vector<C>>(_mm512_mask_blend_pd(
        static_cast<__mmask8>(lanes), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(a)));
}
#else
template <class C>
using LaneSet = Mask<C>;

template <class C>
inline LaneSet<C> lanes_of(Mask<C> mask) {
  return mask;
}

template <class C>
inline LaneSet<C> lanes_within(Mask<C> value, MaskLane<C> extent) {
  return (value >= 0) & (value < extent);
}

template <class C>
inline bool any_lane(LaneSet<C> lanes) {
#if defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(lanes)) != 0;
#else
  MaskLane<C> any = 0;
  for (int lane = 0; lane < kLanes<C>; ++lane) any |= lanes[lane];
  return any != 0;
#endif
}
template <class C>
inline bool all_lanes(LaneSet<C> lanes) {
  return !any_lane<C>(~lanes);
}

template <class C>
inline Vector<C> select(LaneSet<C> lanes, Vector<C> a, Vector<C> b) {
  return lanes != 0 ? a : b;
}
#endif

template <class C>
inline Vector<C> square_root(Vector<C> vector) {
#if defined(__AVX512F__)
  // The masked forms, because GCC 12 warns of the undefined operand inside the unmasked ones.
  if constexpr (sizeof(C) == 4)
    return reinterpret_cast<Vector<C>>(
        _mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(vector)));
  if constexpr (sizeof(C) == 8)
    return reinterpret_cast<Vector<C>>(
        _mm512_maskz_sqrt_pd(0xff, reinterpret_cast<__m512d>(vector)));
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4)
    return reinterpret_cast<Vector<C>>(_mm256_sqrt_ps(reinterpret_cast<__m256>(vector)));
  if constexpr (sizeof(C) == 8)
    return reinterpret_cast<Vector<C>>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(vector)));
#else
  for (int lane = 0; lane < kLanes<C>; ++lane)
    vector[lane] = sizeof(C) == 8
                       ? static_cast<C>(__builtin_sqrt(static_cast<double>(vector[lane])))
                       : static_cast<C>(__builtin_sqrtf(static_cast<float>(vector[lane])));
  return vector;
#endif
}

constexpr index_t round_up(index_t value, index_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline index_t smaller(index_t a, index_t b) {
  return a < b ? a : b;
}
inline index_t larger(index_t a, index_t b) {
  return a > b ? a : b;
}

TRANSNEXT_END_LEVEL
