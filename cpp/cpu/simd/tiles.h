// The tile unit of x86 processors with AMX: eight tiles of 16 rows of 64 bytes, and one instruction
// that adds the product of two tiles of bfloat16 to a tile of float32,
//
//   sum[m][n] += sum over k < 16, i < 2 of left[m][2 k + i] right[k][2 n + i],
//
// 16,384 flops in 16 cycles. Subnormal numbers count as zero. Levels compiled with TRANSNEXT_TILES
// use it; with TRANSNEXT_EMULATED_TILES the same functions are plain C++ (emulated_tiles.h).
//
// A thread uses tiles only while a TileUnit of its own lives. That configures them and releases
// them after, so that the system need not save them at every switch of threads. A forked child
// starts with none, as it does in the middle of no kernel; a signal handler sees its own.
#pragma once

#include "cpu/runtime/level.h"
#include "transnext/half.h"

TRANSNEXT_BEGIN_LEVEL

constexpr int kTiles = 5;           // that kernels use, of the unit's: tile_gemm.h says why
constexpr index_t kTileSide = 16;   // rows of a tile, and columns of a tile of float32
constexpr index_t kTileDepth = 32;  // columns of a tile of bfloat16
constexpr index_t kTileBytes = 64;  // of a row

// Whether kernels may use these tiles.
template <int... kUsed>
constexpr bool kMayUse = ((kUsed >= 0 && kUsed < kTiles) && ...);

TRANSNEXT_END_LEVEL

#if defined(TRANSNEXT_TILES)
#if defined(TRANSNEXT_EMULATED_TILES)
#include "cpu/simd/emulated_tiles.h"
#else

TRANSNEXT_BEGIN_LEVEL

// The instructions are written out, since compilers know too little of them: GCC 12's
// _tile_loadconfig and _tile_loadd do not say that they read memory, and it drops the stores that
// fill it.
class TileUnit {
 public:
  TileUnit() {
    struct alignas(64) Configuration {
      unsigned char palette = 1;
      unsigned char start_row = 0;
      unsigned char reserved[14] = {};
      unsigned short row_bytes[16] = {};
      unsigned char rows[16] = {};
    } configuration;
    static_assert(sizeof(Configuration) == 64);
    constexpr int kOfTheUnit = 8;
    for (int tile = 0; tile < kOfTheUnit; ++tile) {
      configuration.row_bytes[tile] = kTileBytes;
      configuration.rows[tile] = kTileSide;
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
  }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
  ~TileUnit() { asm volatile("tilerelease" ::: "memory"); }

  // After 700 cycles or so without a product the unit sleeps, and the next product then waits for
  // 600 (docs/notes/2026-11-30-amx-attention.md). Short work between products may call this in its
  // middle; while the unit is awake vectors are slower. Tile 0 holds nothing afterwards. The other two
  // are never written.
  static void keep_awake() { asm volatile("tdpbf16ps %tmm7, %tmm6, %tmm0"); }
};

// Strides are in elements.
template <int kTile>
inline void load_tile(const BFloat16* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride * 2), "i"(kTile) : "memory");
}
template <int kTile>
inline void load_tile(const float* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride * 4), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(float* rows, index_t stride) {
  static_assert(kMayUse<kTile>);
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride * 4), "i"(kTile)
               : "memory");
}
template <int kTile>
inline void zero_tile() {
  static_assert(kMayUse<kTile>);
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kSum, int kLeft, int kRight>
inline void multiply_tiles() {
  static_assert(kMayUse<kSum, kLeft, kRight>);
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}

TRANSNEXT_END_LEVEL

#endif
#endif
