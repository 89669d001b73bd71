// Element conversion between storage types T and the compute type C, for single elements, vectors
// and rows. 16-bit formats round to nearest, ties to even.
#pragma once

#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "cpu/simd/simd.h"
#include "transnext/half.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(__F16C__)
inline float to_float(Half x) {
  return _cvtsh_ss(x.bits);
}
inline Half to_half(float x) {
  return {_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
}
#elif defined(__aarch64__)
inline float to_float(Half x) {
  __fp16 value;
  __builtin_memcpy(&value, &x, sizeof(value));
  return value;
}
inline Half to_half(float x) {
  const __fp16 value = static_cast<__fp16>(x);
  Half half;
  __builtin_memcpy(&half, &value, sizeof(half));
  return half;
}
#else
inline float to_float(Half x) {
  return half_to_float(x);
}
inline Half to_half(float x) {
  return float_to_half(x);
}
#endif

template <class C>
inline C convert_to(Half x) {
  return to_float(x);
}
template <class C>
inline C convert_to(BFloat16 x) {
  return bfloat16_to_float(x);
}
template <class C>
inline C convert_to(float x) {
  return static_cast<C>(x);
}
template <class C>
inline C convert_to(double x) {
  return static_cast<C>(x);
}

inline void convert_from(float x, Half* target) {
  *target = to_half(x);
}
inline void convert_from(float x, BFloat16* target) {
  *target = float_to_bfloat16(x);
}
inline void convert_from(float x, float* target) {
  *target = x;
}
inline void convert_from(double x, double* target) {
  *target = x;
}

// kLanes<float> bfloat16 elements at once: their bits are a float's upper half.
typedef unsigned Bits __attribute__((vector_size(kVectorBytes)));
typedef unsigned short HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// Zeros in the upper halves, and without the upper halves, which are zero. GCC 12 takes four
// instructions for what the processor has one for, and warns of the undefined operand inside the
// unmasked forms.
inline Bits widened(HalfBits x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Bits>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Bits>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x)));
#else
  return __builtin_convertvector(x, Bits);
#endif
}
inline HalfBits narrowed(Bits x) {
#if defined(__AVX512F__)
  return reinterpret_cast<HalfBits>(
      _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(x)));
#else
  return __builtin_convertvector(x, HalfBits);
#endif
}

inline Vector<float> to_float(HalfBits bfloat16) {
  return reinterpret_cast<Vector<float>>(widened(bfloat16) << 16);
}

// Exact for every float.
inline HalfBits round_to_bfloat16(Vector<float> x) {
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits nan = Bits{} + 0x7fc0u;
  return narrowed(x == x ? rounded : nan);
}

// One instruction if the level has it; that flushes subnormal numbers to zero.
inline HalfBits to_bfloat16(Vector<float> x) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfBits>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  return round_to_bfloat16(x);
#endif
}

// Pairs of bfloat16 in the lanes, `even` in their lower halves.
inline Bits to_bfloat16_pairs(Vector<float> even, Vector<float> odd) {
#if defined(__AVX512BF16__)
  // Both at once are the even ones, then the odd ones.
  const auto in_turns = reinterpret_cast<__m512i>(
      reinterpret_cast<Bits>(lane_numbers<float>()) * 0x10001u + 0x100000u);
  return reinterpret_cast<Bits>(_mm512_maskz_permutexvar_epi16(
      ~0u, in_turns,
      reinterpret_cast<__m512i>(
          _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even)))));
#else
  return widened(to_bfloat16(even)) | widened(to_bfloat16(odd)) << 16;
#endif
}

#if defined(__AVX512F__)
// The masked forms, because GCC 12 warns of the undefined operand inside the unmasked ones.
constexpr __mmask16 kAllLanes = 0xffff;
#endif

// One vector of kLanes<C> elements from and to contiguous storage.
template <class C, class T>
inline Vector<C> load_vector(const T* source) {
  if constexpr (sizeof(T) == sizeof(C)) {
    return load<Vector<C>>(source);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return to_float(load<HalfBits>(source));
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, Half>) {
    return reinterpret_cast<Vector<C>>(_mm512_maskz_cvtph_ps(kAllLanes, load<__m256i>(source)));
#elif defined(__F16C__) && defined(__AVX2__)
  } else if constexpr (std::is_same_v<T, Half>) {
    return reinterpret_cast<Vector<C>>(_mm256_cvtph_ps(load<__m128i>(source)));
#endif
  } else {
    Vector<C> vector{};
    for (int lane = 0; lane < kLanes<C>; ++lane) vector[lane] = convert_to<C>(source[lane]);
    return vector;
  }
}

template <class C, class T>
inline void store_vector(T* target, Vector<C> vector) {
  if constexpr (sizeof(T) == sizeof(C)) {
    store(target, vector);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    store(target, to_bfloat16(vector));
#if defined(__AVX512F__)
  } else if constexpr (std::is_same_v<T, Half>) {
    store(target, _mm512_maskz_cvtps_ph(kAllLanes, reinterpret_cast<__m512>(vector),
                                        _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && defined(__AVX2__)
  } else if constexpr (std::is_same_v<T, Half>) {
    store(target, _mm256_cvtps_ph(reinterpret_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT));
#endif
  } else {
    for (int lane = 0; lane < kLanes<C>; ++lane) convert_from(vector[lane], target + lane);
  }
}

#if defined(__AVX512F__)
// Loads the first `count` elements of a vector from contiguous storage, zeros for the rest, and
// stores them.
template <class C, class T>
inline Vector<C> load_part(const T* source, index_t count) {
  const unsigned mask = (1u << count) - 1u;
  if constexpr (sizeof(T) == 8) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), source);
  } else if constexpr (sizeof(T) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), source);
  } else {
    const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), source);
    return load_vector<C>(reinterpret_cast<const T*>(&bits));
  }
}

template <class C, class T>
inline void store_part(T* target, index_t count, Vector<C> vector) {
  const unsigned mask = (1u << count) - 1u;
  if constexpr (sizeof(T) == 8) {
    _mm512_mask_storeu_pd(target, static_cast<__mmask8>(mask), vector);
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(target, static_cast<__mmask16>(mask), vector);
  } else {
    T elements[kLanes<C>];
    if constexpr (std::is_same_v<T, BFloat16>) {
      store(elements, round_to_bfloat16(vector));
    } else {
      store_vector<C>(elements, vector);
    }
    _mm256_mask_storeu_epi16(target, static_cast<__mmask16>(mask), load<__m256i>(elements));
  }
}
#endif

// `count` elements, `stride` apart, to and from a contiguous row.
template <class C, class T>
inline void load_row(const T* source, index_t stride, index_t count, C* row) {
  index_t i = 0;
  if (stride == 1) {
    for (; i + kLanes<C> <= count; i += kLanes<C>) store(row + i, load_vector<C>(source + i));
#if defined(__AVX512F__)
    if (i < count) store_part<C>(row + i, count - i, load_part<C>(source + i, count - i));
    return;
#endif
  }
  for (; i < count; ++i) row[i] = convert_to<C>(source[i * stride]);
}

// The same without a conversion.
inline void load_row(const BFloat16* source, index_t stride, index_t count, BFloat16* row) {
  index_t i = 0;
  if (stride == 1) {
    constexpr index_t n = kLanes<float>;
    for (; i + n <= count; i += n) store(row + i, load<HalfBits>(source + i));
#if defined(__AVX512F__)
    const auto mask = static_cast<__mmask16>((1u << (count - i)) - 1u);
    _mm256_mask_storeu_epi16(row + i, mask, _mm256_maskz_loadu_epi16(mask, source + i));
    return;
#endif
  }
  for (; i < count; ++i) row[i] = source[i * stride];
}

template <class C, class T>
inline void store_row(const C* row, index_t stride, index_t count, T* target) {
  index_t i = 0;
  if (stride == 1) {
    for (; i + kLanes<C> <= count; i += kLanes<C>)
      store_vector<C>(target + i, load<Vector<C>>(row + i));
#if defined(__AVX512F__)
    if (i < count) store_part<C>(target + i, count - i, load_part<C>(row + i, count - i));
    return;
#endif
  }
  for (; i < count; ++i) convert_from(row[i], target + i * stride);
}

// Loads or stores one vector at position `first` of a row; elements from `count` on are zero or not
// written.
template <class C, class T>
inline Vector<C> load_lanes(const T* source, index_t stride, index_t first, index_t count) {
  if (stride == 1 && first + kLanes<C> <= count) return load_vector<C>(source + first);
#if defined(__AVX512F__)
  if (stride == 1) return load_part<C>(source + first, larger(0, count - first));
#endif
  Vector<C> vector{};
  for (index_t lane = 0; lane < kLanes<C> && first + lane < count; ++lane)
    vector[lane] = convert_to<C>(source[(first + lane) * stride]);
  return vector;
}

template <class C, class T>
inline void store_lanes(T* target, index_t stride, index_t first, index_t count, Vector<C> vector) {
  if (stride == 1 && first + kLanes<C> <= count) return store_vector<C>(target + first, vector);
#if defined(__AVX512F__)
  if (stride == 1) return store_part<C>(target + first, larger(0, count - first), vector);
#endif
  for (index_t lane = 0; lane < kLanes<C> && first + lane < count; ++lane)
    convert_from(vector[lane], target + (first + lane) * stride);
}

TRANSNEXT_END_LEVEL
