// The functions of tiles.h as plain C++, for tests on machines without a tile unit: the same bits.
// Tiles used while the thread has no TileUnit end the program, where the processor would stop it,
// and compilers' sanitizers see what is read and written. What is long is not inlined: that took
// most of this level's compilation.
#pragma once

#include "cpu/simd/simd.h"
#include "cpu/simd/tiles.h"

TRANSNEXT_BEGIN_LEVEL

struct EmulatedTiles {
  int units;  // of this thread that live: 0 or 1
  BFloat16 elements[kTiles][kTileSide][kTileDepth];
  float sums[kTiles][kTileSide][kTileSide];

  static EmulatedTiles& any() {
    static thread_local EmulatedTiles tiles{};
    return tiles;
  }
  static EmulatedTiles& configured() {
    if (any().units != 1) __builtin_trap();
    return any();
  }
  static float without_subnormal(float x) {
    return (float_to_bits(x) & 0x7f800000u) == 0 ? x * 0.0f : x;
  }
};

class TileUnit {
 public:
  TileUnit() {
    if (++EmulatedTiles::any().units != 1) __builtin_trap();
  }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
  ~TileUnit() { --EmulatedTiles::any().units; }

  static void keep_awake() {
    for (auto& row : EmulatedTiles::configured().sums[0]) __builtin_memset(row, 0xff, kTileBytes);
  }
};

template <int kTile>
TRANSNEXT_PHASE void load_tile(const BFloat16* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  for (index_t row = 0; row < kTileSide; ++row)
    __builtin_memcpy(EmulatedTiles::configured().elements[kTile][row], rows + row * stride,
                     kTileBytes);
}

template <int kTile>
inline void load_tile(const float* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  for (index_t row = 0; row < kTileSide; ++row)
    __builtin_memcpy(EmulatedTiles::configured().sums[kTile][row], rows + row * stride, kTileBytes);
}

template <int kTile>
inline void store_tile(float* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  for (index_t row = 0; row < kTileSide; ++row)
    __builtin_memcpy(rows + row * stride, EmulatedTiles::configured().sums[kTile][row], kTileBytes);
}

template <int kTile>
inline void zero_tile() {
  static_assert(kMayUse<kTile>);
  __builtin_memset(EmulatedTiles::configured().sums[kTile], 0, kTileSide * kTileBytes);
}

// The unit sums the even and the odd k of a product apart.
template <int kSum, int kLeft, int kRight>
TRANSNEXT_PHASE void multiply_tiles() {
  static_assert(kMayUse<kSum, kLeft, kRight>);
  EmulatedTiles& tiles = EmulatedTiles::configured();
  const auto element = [&](int tile, index_t row, index_t column) {
    return EmulatedTiles::without_subnormal(bfloat16_to_float(tiles.elements[tile][row][column]));
  };
  for (index_t m = 0; m < kTileSide; ++m) {
    float sums[2][kTileSide] = {};
    for (index_t k = 0; k < kTileSide; ++k) {
      for (int odd = 0; odd < 2; ++odd) {
        const float left = element(kLeft, m, 2 * k + odd);
        for (index_t n = 0; n < kTileSide; ++n) {
          const float product = left * element(kRight, k, 2 * n + odd);
          sums[odd][n] = EmulatedTiles::without_subnormal(sums[odd][n] + product);
        }
      }
    }
    for (index_t n = 0; n < kTileSide; ++n) {
      float& sum = tiles.sums[kSum][m][n];
      sum = EmulatedTiles::without_subnormal(
          sum + EmulatedTiles::without_subnormal(sums[0][n] + sums[1][n]));
    }
  }
}

TRANSNEXT_END_LEVEL
