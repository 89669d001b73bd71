// The inner loop of the packed GEMM for the tile unit (simd/tiles.h).
//
// A panel is 3 tiles wide, a strip of rows 2 tiles high: 6 tiles of sums and one for each operand.
// Per 32 k, 7 loads of 8 cycles from the first-level cache feed 6 products of 16 cycles, which the
// unit runs side by side. Consecutive products share an operand, so that one is loaded for each.
#pragma once

#include "cpu/gemm/packed_gemm.h"

#if defined(TRANSNEXT_TILES)

TRANSNEXT_BEGIN_LEVEL

template <int kColumns, bool kTwo>
inline void multiply_tile_rows(const LeftRows<BFloat16>& a, const BFloat16* b, index_t depth,
                               float* sums) {
  constexpr index_t kRight = 2 * kPanelColumns;
  constexpr int kLeftTile = 6;
  constexpr int kRightTile = 7;
  zero_tile<0>();
  if constexpr (kColumns > 1) zero_tile<1>();
  if constexpr (kColumns > 2) zero_tile<2>();
  if constexpr (kTwo) {
    zero_tile<3>();
    if constexpr (kColumns > 1) zero_tile<4>();
    if constexpr (kColumns > 2) zero_tile<5>();
  }
  const BFloat16* left = a.data;
  const BFloat16* below = a.data + kTileSide * a.stride;
  for (index_t k = 0; k < depth; k += kTileDepth) {
    load_tile<kLeftTile>(left, a.stride);
    load_tile<kRightTile>(b, kRight);
    multiply_tiles<0, kLeftTile, kRightTile>();
    if constexpr (kTwo) {
      load_tile<kLeftTile>(below, a.stride);
      multiply_tiles<3, kLeftTile, kRightTile>();
    }
    if constexpr (kColumns > 1) {
      load_tile<kRightTile>(b + 2 * kTileSide, kRight);
      if constexpr (kTwo) {
        multiply_tiles<4, kLeftTile, kRightTile>();
        load_tile<kLeftTile>(left, a.stride);
      }
      multiply_tiles<1, kLeftTile, kRightTile>();
    }
    if constexpr (kColumns > 2) {
      load_tile<kRightTile>(b + 4 * kTileSide, kRight);
      multiply_tiles<2, kLeftTile, kRightTile>();
      if constexpr (kTwo) {
        load_tile<kLeftTile>(below, a.stride);
        multiply_tiles<5, kLeftTile, kRightTile>();
      }
    }
    left += kTileDepth;
    below += kTileDepth;
    b += kTileDepth * kPanelColumns;
  }
  store_tile<0>(sums, kPanelColumns);
  if constexpr (kColumns > 1) store_tile<1>(sums + kTileSide, kPanelColumns);
  if constexpr (kColumns > 2) store_tile<2>(sums + 2 * kTileSide, kPanelColumns);
  if constexpr (kTwo) {
    sums += kTileSide * kPanelColumns;
    store_tile<3>(sums, kPanelColumns);
    if constexpr (kColumns > 1) store_tile<4>(sums + kTileSide, kPanelColumns);
    if constexpr (kColumns > 2) store_tile<5>(sums + 2 * kTileSide, kPanelColumns);
  }
}

template <int kColumns>
inline void multiply_tile_columns(const LeftRows<BFloat16>& a, index_t rows, const BFloat16* b,
                                  index_t depth, float* sums) {
  if (rows > kTileSide) return multiply_tile_rows<kColumns, true>(a, b, depth, sums);
  multiply_tile_rows<kColumns, false>(a, b, depth, sums);
}

// sums = a strip of rows by a panel, as multiply_panel describes.
inline void multiply_in_tiles(const LeftRows<BFloat16>& a, index_t rows,
                              const Panels<BFloat16>& panels, index_t panel, float* sums) {
  static_assert(kStripRows == 2 * kTileSide && kPanelColumns == 3 * kTileSide);
  const index_t columns = panels.used(panel);
  const BFloat16* b = panels.at(panel, 0);
  if (columns > 2 * kTileSide) return multiply_tile_columns<3>(a, rows, b, panels.depth, sums);
  if (columns > kTileSide) return multiply_tile_columns<2>(a, rows, b, panels.depth, sums);
  multiply_tile_columns<1>(a, rows, b, panels.depth, sums);
}

TRANSNEXT_END_LEVEL

#endif
