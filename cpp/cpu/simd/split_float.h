// Float32 split into two bfloat16: x is high + low, and what is left is at most 2^-16 |x|. A product
// of two floats becomes three of bfloat16, which the tile unit multiplies at 16 times the rate,
//
//   a b ~ high(a) high(b) + low(a) high(b) + high(a) low(b),
//
// with an error of at most 2^-14 |a b|, 2^-18 on average. Infinities become NaN.
//
// A row's elements lie in blocks of a tile's depth, as many 32-bit numbers as elements: the high
// parts of a block, then its low parts.
#pragma once

#include "cpu/simd/convert.h"
#include "cpu/simd/tiles.h"

TRANSNEXT_BEGIN_LEVEL

struct SplitFloat {
  BFloat16 parts[2];
};

#if defined(TRANSNEXT_TILES)

// The high part of element k; its low part is kTileDepth further on.
inline BFloat16* high_part(SplitFloat* row, index_t k) {
  return reinterpret_cast<BFloat16*>(row + k / kTileDepth * kTileDepth) + k % kTileDepth;
}

// Elements k .. k + kLanes<float> - 1, where k is a multiple of that.
inline void store_split(SplitFloat* row, index_t k, Vector<float> x) {
  BFloat16* high = high_part(row, k);
  const HalfBits rounded = to_bfloat16(x);
  store(high, rounded);
  store(high + kTileDepth, to_bfloat16(x - to_float(rounded)));
}

// As of other types (convert.h), but in whole vectors, which a row has room for.
inline void store_row(const float* row, index_t, index_t count, SplitFloat* target) {
  for (index_t i = 0; i < count; i += kLanes<float>)
    store_split(target, i, load_lanes<float>(row, 1, i, count));
}

#endif

TRANSNEXT_END_LEVEL
