// Small products on the tile unit (simd/tiles.h): 32 rows by 16 or 32 columns of sums, for operands
// that change from product to product (tile_gemm.h multiplies by packed weights).
//
// Four tiles of sums, two of rows and two of columns: per 32 k, 4 loads of 8 cycles feed 4 products
// of 16 cycles.
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

// sums[m * stride + n] = (kAdd ? sums[m * stride + n] : 0) + rows by columns over `depth` k, a
// multiple of 32; kColumns tiles of columns, 1 or 2.
template <int kColumns, bool kAdd>
inline void multiply_square(const SquareRows& left, const SquarePairs& right, index_t depth,
                            float* sums, index_t stride) {
  constexpr bool kTwo = kColumns > 1;
  float* const below = sums + kTileSide * stride;
  if constexpr (kAdd) {
    load_tile<0>(sums, stride);
    load_tile<2>(below, stride);
    if constexpr (kTwo) load_tile<1>(sums + kTileSide, stride);
    if constexpr (kTwo) load_tile<3>(below + kTileSide, stride);
  } else {
    zero_tile<0>();
    zero_tile<2>();
    if constexpr (kTwo) zero_tile<1>();
    if constexpr (kTwo) zero_tile<3>();
  }
  const BFloat16* rows = left.data;
  const BFloat16* pairs = right.data;
  for (index_t k = 0; k < depth; k += kTileDepth, rows += kTileDepth) {
    load_tile<4>(rows, left.stride);
    load_tile<5>(rows + kTileSide * left.stride, left.stride);
    load_tile<6>(pairs, right.stride);
    multiply_tiles<0, 4, 6>();
    multiply_tiles<2, 5, 6>();
    if constexpr (kTwo) {
      load_tile<7>(pairs + 2 * kTileSide, right.stride);
      multiply_tiles<1, 4, 7>();
      multiply_tiles<3, 5, 7>();
    }
    pairs += kTileSide * right.stride;
  }
  store_tile<0>(sums, stride);
  store_tile<2>(below, stride);
  if constexpr (kTwo) store_tile<1>(sums + kTileSide, stride);
  if constexpr (kTwo) store_tile<3>(below + kTileSide, stride);
}

TRANSNEXT_END_LEVEL

#endif
