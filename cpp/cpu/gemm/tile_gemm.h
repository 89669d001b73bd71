// The inner loop of the packed GEMM for the tile unit (simd/tiles.h).
//
// A panel is 3 tiles wide, a strip of rows 2 tiles high: 6 tiles of sums and one for each operand.
// Per 32 k, 7 loads of 8 cycles from the first-level cache feed 6 products of 16 cycles, which the
// unit runs side by side. Consecutive products share an operand, so that one is loaded for each.
#pragma once

#include "cpu/gemm/packed_gemm.h"

#if defined(TRANSNEXT_TILES)

TRANSNEXT_BEGIN_LEVEL

// Adds the products of 32 k to the tiles of sums, 0 .. 2 and below them 3 .. 5.
template <int kColumns, bool kTwo>
inline void add_tile_products(const BFloat16* left, index_t stride, const BFloat16* b) {
  constexpr index_t kRight = 2 * kPanelColumns;
  constexpr int kLeftTile = 6;
  constexpr int kRightTile = 7;
  const BFloat16* below = left + kTileSide * stride;
  load_tile<kLeftTile>(left, stride);
  load_tile<kRightTile>(b, kRight);
  multiply_tiles<0, kLeftTile, kRightTile>();
  if constexpr (kTwo) {
    load_tile<kLeftTile>(below, stride);
    multiply_tiles<3, kLeftTile, kRightTile>();
  }
  if constexpr (kColumns > 1) {
    load_tile<kRightTile>(b + 2 * kTileSide, kRight);
    if constexpr (kTwo) {
      multiply_tiles<4, kLeftTile, kRightTile>();
      load_tile<kLeftTile>(left, stride);
    }
    multiply_tiles<1, kLeftTile, kRightTile>();
  }
  if constexpr (kColumns > 2) {
    load_tile<kRightTile>(b + 4 * kTileSide, kRight);
    multiply_tiles<2, kLeftTile, kRightTile>();
    if constexpr (kTwo) {
      load_tile<kLeftTile>(below, stride);
      multiply_tiles<5, kLeftTile, kRightTile>();
    }
  }
}

// Bfloat16 has one part, split floats two: three of the four products of parts count.
template <int kColumns, bool kTwo, class E>
inline void multiply_tile_rows(const LeftRows<E>& a, const E* b, index_t depth, const float* start,
                               float* sums, const Ahead& ahead) {
  constexpr int kParts = sizeof(E) / sizeof(BFloat16);
  constexpr index_t kLeftPart = kTileDepth;
  constexpr index_t kRightPart = kTileDepth * kPanelColumns;
  constexpr index_t kSameRow = 0;  // stride of a tile whose rows are all `start`
  load_tile<0>(start, kSameRow);
  if constexpr (kColumns > 1) load_tile<1>(start + kTileSide, kSameRow);
  if constexpr (kColumns > 2) load_tile<2>(start + 2 * kTileSide, kSameRow);
  if constexpr (kTwo) {
    load_tile<3>(start, kSameRow);
    if constexpr (kColumns > 1) load_tile<4>(start + kTileSide, kSameRow);
    if constexpr (kColumns > 2) load_tile<5>(start + 2 * kTileSide, kSameRow);
  }
  const auto* left = reinterpret_cast<const BFloat16*>(a.data);
  const auto* right = reinterpret_cast<const BFloat16*>(b);
  const index_t stride = a.stride * kParts;
  const char* next = ahead.data;
  for (index_t k = 0; k < depth; k += kTileDepth) {
    for (int line = 0; line < ahead.lines; ++line)
      __builtin_prefetch(next + line * kTileBytes, 0, 2);
    next += kTileDepth * kPanelColumns * sizeof(E);
    add_tile_products<kColumns, kTwo>(left, stride, right);
    if constexpr (kParts > 1) {
      add_tile_products<kColumns, kTwo>(left + kLeftPart, stride, right);
      add_tile_products<kColumns, kTwo>(left, stride, right + kRightPart);
    }
    left += kParts * kLeftPart;
    right += kParts * kRightPart;
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

template <int kColumns, class E>
inline void multiply_tile_columns(const LeftRows<E>& a, index_t rows, const E* b, index_t depth,
                                  const float* start, float* sums, const Ahead& ahead) {
  if (rows > kTileSide) return multiply_tile_rows<kColumns, true>(a, b, depth, start, sums, ahead);
  multiply_tile_rows<kColumns, false>(a, b, depth, start, sums, ahead);
}

// sums = a strip of rows by a panel, as multiply_panel describes.
template <class E>
inline void multiply_in_tiles(const LeftRows<E>& a, index_t rows, const Panels<E>& panels,
                              index_t panel, const float* start, float* sums, const Ahead& ahead) {
  static_assert(kStripRows == 2 * kTileSide && kPanelColumns == 3 * kTileSide);
  const index_t columns = panels.used(panel);
  const E* b = panels.at(panel, 0);
  if (columns > 2 * kTileSide)
    return multiply_tile_columns<3>(a, rows, b, panels.depth, start, sums, ahead);
  if (columns > kTileSide)
    return multiply_tile_columns<2>(a, rows, b, panels.depth, start, sums, ahead);
  multiply_tile_columns<1>(a, rows, b, panels.depth, start, sums, ahead);
}

TRANSNEXT_END_LEVEL

#endif
