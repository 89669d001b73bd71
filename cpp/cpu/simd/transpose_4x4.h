// Blocks of 16 tokens between rows and channel panels by 4x4 transposes: 4 tokens by 4 channels,
// where a row of 4 is a quarter of a vector. The loads themselves combine the quarters of four
// tokens into one vector, so a transpose costs two shuffles per vector, inside quarters; a square
// of 16 costs four that cross quarters. Channels that are a multiple of 4 need no padding (24 is
// one and a half vectors).
#pragma once

#if defined(__AVX512F__)

#include <immintrin.h>

#include "cpu/simd/convert.h"

TRANSNEXT_BEGIN_LEVEL

constexpr int kQuad = 4;

// Four elements of a row in each quarter.
template <class T>
inline __m512 load_quarters(const T* first, const T* second, const T* third, const T* fourth) {
  if constexpr (sizeof(T) == 4) {
    // Masked broadcasts, which keep the other quarters and need no shuffles, unlike insertions.
    __m512 quarters = _mm512_castps128_ps512(load<__m128>(first));
    quarters = _mm512_mask_broadcast_f32x4(quarters, 0x00f0, load<__m128>(second));
    quarters = _mm512_mask_broadcast_f32x4(quarters, 0x0f00, load<__m128>(third));
    return _mm512_mask_broadcast_f32x4(quarters, 0xf000, load<__m128>(fourth));
  } else {
    const auto pair = [](const T* low, const T* high) {
      return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low)),
                                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(high)));
    };
    const __m256i bits = _mm256_inserti128_si256(_mm256_castsi128_si256(pair(first, second)),
                                                 pair(third, fourth), 1);
    if constexpr (std::is_same_v<T, BFloat16>)
      return reinterpret_cast<__m512>(to_float(reinterpret_cast<HalfBits>(bits)));
    return _mm512_maskz_cvtph_ps(kAllLanes, bits);
  }
}

// Transposes each quarter of four vectors.
inline void transpose_quarters(Vector<float> (&rows4)[kQuad]) {
  const auto unpack = [](Vector<float> a, Vector<float> b, bool high) {
    const auto x = reinterpret_cast<__m512>(a);
    const auto y = reinterpret_cast<__m512>(b);
    return reinterpret_cast<Vector<float>>(high ? _mm512_maskz_unpackhi_ps(kAllLanes, x, y)
                                                : _mm512_maskz_unpacklo_ps(kAllLanes, x, y));
  };
  const auto unpack_pairs = [](Vector<float> a, Vector<float> b, bool high) {
    const auto x = reinterpret_cast<__m512d>(a);
    const auto y = reinterpret_cast<__m512d>(b);
    return reinterpret_cast<Vector<float>>(high ? _mm512_maskz_unpackhi_pd(0xff, x, y)
                                                : _mm512_maskz_unpacklo_pd(0xff, x, y));
  };
  const Vector<float> low01 = unpack(rows4[0], rows4[1], false);
  const Vector<float> high01 = unpack(rows4[0], rows4[1], true);
  const Vector<float> low23 = unpack(rows4[2], rows4[3], false);
  const Vector<float> high23 = unpack(rows4[2], rows4[3], true);
  rows4[0] = unpack_pairs(low01, low23, false);
  rows4[1] = unpack_pairs(low01, low23, true);
  rows4[2] = unpack_pairs(high01, high23, false);
  rows4[3] = unpack_pairs(high01, high23, true);
}

// panel[c * stride + lane] = channel c of row `lane` of 16 tokens, `row` elements apart.
template <class T>
inline void load_transposed_4x4(const T* tokens, index_t row, index_t channels, float* panel,
                                index_t stride) {
  for (index_t c = 0; c < channels; c += kQuad, tokens += kQuad, panel += kQuad * stride) {
    Vector<float> rows4[kQuad];
    for (int t = 0; t < kQuad; ++t) {
      const T* first = tokens + t * row;
      rows4[t] = reinterpret_cast<Vector<float>>(load_quarters(
          first, first + kQuad * row, first + 2 * kQuad * row, first + 3 * kQuad * row));
    }
    transpose_quarters(rows4);
    for (int t = 0; t < kQuad; ++t) store(panel + t * stride, rows4[t]);
  }
}

// The same for the rows begin .. end - 1, with zeros for the others, which are not read.
template <class T>
inline void load_some_transposed_4x4(const T* tokens, index_t row, index_t begin, index_t end,
                                     index_t channels, float* panel, index_t stride) {
  const T nothing[kQuad] = {};
  for (index_t c = 0; c < channels; c += kQuad, panel += kQuad * stride) {
    const auto at = [&](index_t lane) {
      return lane >= begin && lane < end ? tokens + lane * row + c : nothing;
    };
    Vector<float> rows4[kQuad];
    for (int t = 0; t < kQuad; ++t)
      rows4[t] = reinterpret_cast<Vector<float>>(
          load_quarters(at(t), at(t + kQuad), at(t + 2 * kQuad), at(t + 3 * kQuad)));
    transpose_quarters(rows4);
    for (int t = 0; t < kQuad; ++t) store(panel + t * stride, rows4[t]);
  }
}

// The reverse, for the first `count` rows.
template <class T>
inline void store_transposed_4x4(const float* panel, index_t stride, index_t channels, T* tokens,
                                 index_t row, index_t count = 4 * kQuad) {
  for (index_t c = 0; c < channels; c += kQuad, tokens += kQuad, panel += kQuad * stride) {
    Vector<float> rows4[kQuad];
    for (int t = 0; t < kQuad; ++t) rows4[t] = load<Vector<float>>(panel + t * stride);
    transpose_quarters(rows4);
    for (int t = 0; t < kQuad; ++t) {
      T elements[16];
      store_vector<float>(elements, rows4[t]);
      for (int quarter = 0; quarter < 4 && quarter * kQuad + t < count; ++quarter)
        __builtin_memcpy(tokens + (quarter * kQuad + t) * row, elements + quarter * kQuad,
                         kQuad * sizeof(T));
    }
  }
}

TRANSNEXT_END_LEVEL

#endif
