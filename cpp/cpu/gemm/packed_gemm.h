// The packed GEMM: rows in scratch memory times a packed weight, the arithmetic of every Linear:
//
//   out[m][n] = sum over k of a[m][k] weight[n][k]
//
// The weight is packed once into panels of kPanelColumns columns, [panel][k][column], with zeros
// beyond the last column, so the inner loop reads it sequentially. Panels are the same for every
// instruction set; each level splits them into tiles of kTileVectors vectors, so that the sums fit
// into its registers.
//
// bfloat16 is packed in pairs of k, [panel][k / 2][column][2], padded with zeros to whole multiples
// of 16 pairs: one instruction multiplies and adds a pair (AVX-512 BF16), 2 pairs of 2 rows and 2
// columns (Arm), or 16 pairs of 16 rows and 16 columns (AMX). Elsewhere the weight's elements are
// widened in the inner loop, and rows stay in float32. The sums are float32 in any case. Float32 that is split into bfloat16 is packed as two
// panels of bfloat16, tile by tile in turns: [panel][k / 32][part][k % 32 / 2][column][2]. The inner
// loops are in packed_gemm.cpp, tile_gemm.h and matrix_gemm.h.
#pragma once

#include "cpu/runtime/ranges.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/split_float.h"
#include "cpu/simd/tiles.h"
#include "transnext/linear.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(__AVX512F__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)  // 32 registers
constexpr int kTileRows = 8;
constexpr int kTileVectors = 3;
#elif defined(__aarch64__)  // 32 registers, 6 of them for the next elements of the rows
constexpr int kTileRows = 6;
constexpr int kTileVectors = 3;
#elif defined(__AVX2__)     // 16 registers
constexpr int kTileRows = 4;
constexpr int kTileVectors = 3;
#else                       // 16 registers, one of them for the product before its addition
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif

// How a weight of elements E is multiplied: by rows of type Left, kStep consecutive k, packed side
// by side, into sums of type Sum. The rows are padded with zeros to a multiple of kDepth, and a
// product may read kSpareRows rows after the last, whatever they hold. A Unit lives while its
// thread multiplies.
template <class E>
struct Product {
  using Left = E;
  using Sum = E;
  static constexpr int kStep = 1;
  static constexpr index_t kDepth = 1;
  static constexpr index_t kSpareRows = 0;
  struct Unit {
    Unit() {}
  };
};
template <>
struct Product<BFloat16> {
#if defined(TRANSNEXT_TILES) || defined(__AVX512BF16__) || \
    defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  using Left = BFloat16;
#else
  using Left = float;
#endif
  using Sum = float;
  static constexpr int kStep = 2;
#if defined(TRANSNEXT_TILES)
  static constexpr index_t kDepth = kTileDepth;
  static constexpr index_t kSpareRows = kTileSide - 1;
  using Unit = TileUnit;
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  static constexpr index_t kDepth = 4;
  static constexpr index_t kSpareRows = 1;
  using Unit = Product<float>::Unit;
#else
  static constexpr index_t kDepth = kStep;
  static constexpr index_t kSpareRows = 0;
  using Unit = Product<float>::Unit;
#endif
};

#if defined(TRANSNEXT_TILES)
template <>
struct Product<SplitFloat> {
  using Left = SplitFloat;
  using Sum = float;
  static constexpr int kStep = 1;
  static constexpr index_t kDepth = kTileDepth;
  static constexpr index_t kSpareRows = kTileSide - 1;
  using Unit = TileUnit;
};
#endif

template <class E>
using LeftOf = typename Product<E>::Left;

// Whether products with elements E are the tile unit's.
template <class E>
constexpr bool kOnTileUnit = Product<E>::kDepth >= kTileDepth;

// Rows of the left operand of a product with elements E: row m is at data + m * stride.
template <class E>
struct LeftRows {
  const LeftOf<E>* data;
  index_t stride;
};

// Packed columns, as the header describes.
template <class E>
struct Panels {
  const E* data;
  index_t columns;
  index_t depth;
  index_t size;  // elements of a panel

  static Panels of(const void* data, DType dtype, index_t columns, index_t depth) {
    return {static_cast<const E*>(data), columns, depth,
            packed_depth(dtype, depth) * kPanelColumns};
  }
  index_t count() const { return (columns + kPanelColumns - 1) / kPanelColumns; }
  // Consecutive steps are kPanelColumns * kStep apart.
  index_t steps() const { return (depth + Product<E>::kStep - 1) / Product<E>::kStep; }
  const E* at(index_t panel, index_t column) const {
    return data + panel * size + column * Product<E>::kStep;
  }
  // Columns of a panel that the weight has.
  index_t used(index_t panel) const {
    return smaller(kPanelColumns, columns - panel * kPanelColumns);
  }
};

// What a product on the tile unit prefetches into the second-level cache, for every kDepth of k:
// `lines` cache lines from `data` on, the next ones a whole panel's kDepth of k later.
struct Ahead {
  const char* data = nullptr;
  int lines = 0;
};

// Rows that are multiplied at a time: whole tiles, whose sums stay in the first-level cache until
// they are finished.
constexpr index_t kStripRows = round_up(32, kTileRows);

// sums[row * kPanelColumns + column] = start[column] + `rows` rows, at most kStripRows, times the
// columns of one panel, in whole vectors; `start` has kPanelColumns elements, and kSpareRows rows of
// `sums` after the last may be written. Compiled once per level (packed_gemm.cpp) for all kernels.
void multiply_panel(const LeftRows<float>& a, index_t rows, const Panels<float>& panels,
                    index_t panel, const float* start, float* sums, const Ahead& ahead);
void multiply_panel(const LeftRows<double>& a, index_t rows, const Panels<double>& panels,
                    index_t panel, const double* start, double* sums, const Ahead& ahead);
void multiply_panel(const LeftRows<BFloat16>& a, index_t rows, const Panels<BFloat16>& panels,
                    index_t panel, const float* start, float* sums, const Ahead& ahead);
#if defined(TRANSNEXT_TILES)
void multiply_panel(const LeftRows<SplitFloat>& a, index_t rows, const Panels<SplitFloat>& panels,
                    index_t panel, const float* start, float* sums, const Ahead& ahead);
#endif

// A strip's part of the panel after `panel`. With few rows a panel is multiplied faster than it comes
// from the third-level cache, and strips after the first leave that cache idle; so the next panel comes
// during all strips of this one.
template <class E>
inline Ahead panel_ahead(const Panels<E>& panels, index_t panel, index_t first_row, index_t rows) {
  constexpr index_t kLine = 64;
  constexpr index_t kLines =
      Product<E>::kDepth * kPanelColumns * static_cast<index_t>(sizeof(E)) / kLine;
  if (!kOnTileUnit<E> || panel + 1 >= panels.count()) return {};
  const index_t strip = first_row / kStripRows;
  const index_t strips = (rows - 1) / kStripRows + 1;
  const index_t begin = range_begin(strip, kLines, strips);
  const index_t end = range_begin(strip + 1, kLines, strips);
  return {reinterpret_cast<const char*>(panels.at(panel + 1, 0)) + begin * kLine,
          static_cast<int>(end - begin)};
}

// The same for any number of rows.
template <class E, class C>
inline void multiply_strips(const LeftRows<E>& a, index_t rows, const Panels<E>& panels,
                            index_t panel, const C* start, C* sums) {
  for (index_t first = 0; first < rows; first += kStripRows)
    multiply_panel({a.data + first * a.stride, a.stride}, smaller(kStripRows, rows - first), panels,
                   panel, start, sums + first * kPanelColumns,
                   panel_ahead(panels, panel, first, rows));
}

// Multiplies `rows` rows by the columns of one panel and adds `bias`, kPanelColumns elements. Calls
// finish(row, sums) for every row of the result; `sums` has whole vectors of the panel's columns.
template <class E, class C, class Finish>
inline void product(const LeftRows<E>& a, index_t rows, const Panels<E>& panels, index_t panel,
                    const C* bias, Finish&& finish) {
  static_assert(std::is_same_v<C, typename Product<E>::Sum>);
  alignas(kVectorBytes) C sums[kStripRows * kPanelColumns];
  for (index_t first = 0; first < rows; first += kStripRows) {
    const index_t count = smaller(kStripRows, rows - first);
    multiply_panel({a.data + first * a.stride, a.stride}, count, panels, panel, bias, sums,
                   panel_ahead(panels, panel, first, rows));
    for (index_t i = 0; i < count; ++i) finish(first + i, sums + i * kPanelColumns);
  }
}

TRANSNEXT_END_LEVEL
