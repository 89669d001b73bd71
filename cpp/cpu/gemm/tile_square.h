// Small products on the tile unit (simd/tiles.h): 32 rows by 16 or 32 columns of sums, for operands
// that change from product to product (tile_gemm.h multiplies by packed weights).
//
// A row of tiles at a time: one or two tiles of sums and one for each operand, so that no more than four
// are in use (tile_gemm.h says why). Per 32 k, 3 loads of 8 cycles feed 2 products of 16 cycles.
#pragma once

#include "cpu/simd/tiles.h"

#if defined(TRANSNEXT_TILES)

TRANSNEXT_BEGIN_LEVEL

constexpr index_t kSquareSide = 2 * kTileSide;

// The left operand: row m is at data + m * stride, its k side by side.
struct SquareRows {
  const BFloat16* data;
  index_t stride;
};

// The right operand in pairs of k, [k / 2][column][2]. A row of pairs has `stride` elements.
struct SquarePairs {
  const BFloat16* data;
  index_t stride;
};

// A row of tiles of multiply_square, from `rows` on.
template <int kColumns, bool kAdd>
inline void multiply_square_row(const BFloat16* rows, index_t row_stride, const SquarePairs& right,
                                index_t depth, float* sums, index_t stride) {
  constexpr bool kTwo = kColumns > 1;
  if constexpr (kAdd) {
    load_tile<0>(sums, stride);
    if constexpr (kTwo) load_tile<1>(sums + kTileSide, stride);
  } else {
    zero_tile<0>();
    if constexpr (kTwo) zero_tile<1>();
  }
  const BFloat16* pairs = right.data;
  for (index_t k = 0; k < depth; k += kTileDepth, rows += kTileDepth) {
    load_tile<3>(rows, row_stride);
    load_tile<4>(pairs, right.stride);
    multiply_tiles<0, 3, 4>();
    if constexpr (kTwo) {
      load_tile<4>(pairs + 2 * kTileSide, right.stride);
      multiply_tiles<1, 3, 4>();
    }
    pairs += kTileSide * right.stride;
  }
  store_tile<0>(sums, stride);
  if constexpr (kTwo) store_tile<1>(sums + kTileSide, stride);
}

// sums[m * stride + n] = (kAdd ? sums[m * stride + n] : 0) + rows by columns over `depth` k, a
// multiple of 32; kColumns tiles of columns, 1 or 2.
template <int kColumns, bool kAdd>
inline void multiply_square(const SquareRows& left, const SquarePairs& right, index_t depth,
                            float* sums, index_t stride) {
  multiply_square_row<kColumns, kAdd>(left.data, left.stride, right, depth, sums, stride);
  multiply_square_row<kColumns, kAdd>(left.data + kTileSide * left.stride, left.stride, right,
                                      depth, sums + kTileSide * stride, stride);
}

TRANSNEXT_END_LEVEL

#endif
