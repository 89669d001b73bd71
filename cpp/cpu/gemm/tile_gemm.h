// The inner loop of the packed GEMM for the tile unit (simd/tiles.h).
//
// A row of tiles is multiplied by a panel, which is 3 tiles wide, at a time: 3 tiles of sums and one for
// each operand. Per 32 k, 4 loads of 8 cycles from the first-level cache feed 3 products of 16 cycles,
// which the unit runs side by side.
//
// Two rows of tiles, with 6 tiles of sums, would take 7 loads for 6 products. That is no faster, and on a
// machine that is shared a product then takes 70 to 80 ticks for hours, with 5 tiles in use 30 to 40: it
// seems that a core's two threads share the registers that tiles are renamed to, of which those that were
// not written since the configuration take none (docs/notes/2026-12-01-live-tiles.md).
#pragma once

#include "cpu/gemm/packed_gemm.h"

#if defined(TRANSNEXT_TILES)

TRANSNEXT_BEGIN_LEVEL

// Adds the products of 32 k to the tiles of sums, 0 .. kColumns - 1.
template <int kColumns>
inline void add_tile_products(const BFloat16* left, index_t stride, const BFloat16* b) {
  constexpr index_t kRight = 2 * kPanelColumns;
  constexpr int kLeftTile = 3;
  constexpr int kRightTile = 4;
  load_tile<kLeftTile>(left, stride);
  load_tile<kRightTile>(b, kRight);
  multiply_tiles<0, kLeftTile, kRightTile>();
  if constexpr (kColumns > 1) {
    load_tile<kRightTile>(b + 2 * kTileSide, kRight);
    multiply_tiles<1, kLeftTile, kRightTile>();
  }
  if constexpr (kColumns > 2) {
    load_tile<kRightTile>(b + 4 * kTileSide, kRight);
    multiply_tiles<2, kLeftTile, kRightTile>();
  }
}

// Bfloat16 has one part, split floats two: three of the four products of parts count.
template <int kColumns, class E>
inline void multiply_tile_row(const LeftRows<E>& a, const E* b, index_t depth, const float* start,
                              float* sums, const Ahead& ahead) {
  constexpr int kParts = sizeof(E) / sizeof(BFloat16);
  constexpr index_t kLeftPart = kTileDepth;
  constexpr index_t kRightPart = kTileDepth * kPanelColumns;
  constexpr index_t kSameRow = 0;  // stride of a tile whose rows are all `start`
  load_tile<0>(start, kSameRow);
  if constexpr (kColumns > 1) load_tile<1>(start + kTileSide, kSameRow);
  if constexpr (kColumns > 2) load_tile<2>(start + 2 * kTileSide, kSameRow);
  const auto* left = reinterpret_cast<const BFloat16*>(a.data);
  const auto* right = reinterpret_cast<const BFloat16*>(b);
  const index_t stride = a.stride * kParts;
  const char* next = ahead.data;
  for (index_t k = 0; k < depth; k += kTileDepth) {
    for (int line = 0; line < ahead.lines; ++line)
      __builtin_prefetch(next + line * kTileBytes, 0, 2);
    next += kTileDepth * kPanelColumns * sizeof(E);
    add_tile_products<kColumns>(left, stride, right);
    if constexpr (kParts > 1) {
      add_tile_products<kColumns>(left + kLeftPart, stride, right);
      add_tile_products<kColumns>(left, stride, right + kRightPart);
    }
    left += kParts * kLeftPart;
    right += kParts * kRightPart;
  }
  store_tile<0>(sums, kPanelColumns);
  if constexpr (kColumns > 1) store_tile<1>(sums + kTileSide, kPanelColumns);
  if constexpr (kColumns > 2) store_tile<2>(sums + 2 * kTileSide, kPanelColumns);
}

// The rows of tiles of a strip, one after the other; each prefetches its share.
template <int kColumns, class E>
inline void multiply_tile_rows(const LeftRows<E>& a, index_t rows, const E* b, index_t depth,
                               const float* start, float* sums, const Ahead& ahead) {
  if (rows <= kTileSide) return multiply_tile_row<kColumns>(a, b, depth, start, sums, ahead);
  const int half = ahead.lines / 2;
  multiply_tile_row<kColumns>(a, b, depth, start, sums, Ahead{ahead.data, half});
  multiply_tile_row<kColumns>(LeftRows<E>{a.data + kTileSide * a.stride, a.stride}, b, depth, start,
                              sums + kTileSide * kPanelColumns,
                              Ahead{ahead.data + half * kTileBytes, ahead.lines - half});
}

// sums = a strip of rows by a panel, as multiply_panel describes.
template <class E>
inline void multiply_in_tiles(const LeftRows<E>& a, index_t rows, const Panels<E>& panels,
                              index_t panel, const float* start, float* sums, const Ahead& ahead) {
  static_assert(kStripRows == 2 * kTileSide && kPanelColumns == 3 * kTileSide);
  const index_t columns = panels.used(panel);
  const E* b = panels.at(panel, 0);
  if (columns > 2 * kTileSide)
    return multiply_tile_rows<3>(a, rows, b, panels.depth, start, sums, ahead);
  if (columns > kTileSide)
    return multiply_tile_rows<2>(a, rows, b, panels.depth, start, sums, ahead);
  multiply_tile_rows<1>(a, rows, b, panels.depth, start, sums, ahead);
}

TRANSNEXT_END_LEVEL

#endif
