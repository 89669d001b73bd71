// The packed GEMM: rows in scratch memory times a packed weight, the arithmetic of every Linear:
//
//   out[m][n] = sum over k of a[m][k] weight[n][k]
//
// The weight is packed once into panels of kPanelColumns columns, [panel][k][column], with zeros
// beyond the last column, so the inner loop reads it sequentially. Panels are the same for every
// instruction set; each level splits them into tiles of kTileVectors vectors, so that the sums fit
// into its registers.
//
// A tile of kTileRows rows by kTileVectors vectors keeps its sums in registers over the whole
// depth: per step of k, kTileRows broadcasts and kTileVectors loads feed kTileRows * kTileVectors
// multiply-adds (AVX-512: 24 for 11 loads), so the loop is bound by arithmetic if the panel, depth
// * 192 bytes, comes from the second-level cache.
//
// bfloat16 is packed in pairs of k, [panel][k / 2][column][2]: one instruction multiplies and adds
// both (AVX-512 BF16); elsewhere the two elements are widened and multiplied one after the other.
// The sums are float32 either way.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "cpu/simd/convert.h"
#include "transnext/linear.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
constexpr int kTileRows = 8;
constexpr int kTileVectors = 3;
#elif defined(__AVX2__)  // 16 registers
constexpr int kTileRows = 4;
constexpr int kTileVectors = 3;
#else                    // 16 registers, one of them for the product before its addition
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif

// How elements E are multiplied: kStep consecutive k at a time into sums of type Sum.
template <class E>
struct Product {
  using Sum = E;
  static constexpr int kStep = 1;
  static Vector<E> broadcast_step(const E* a) { return broadcast<E>(*a); }
  static Vector<E> load_step(const E* b) { return load<Vector<E>>(b); }
  static void add(Vector<E>& sum, Vector<E> a, Vector<E> b) { sum += a * b; }
};

template <>
struct Product<BFloat16> {
  using Sum = float;
  static constexpr int kStep = 2;
  static Vector<float> broadcast_step(const BFloat16* a) {
    unsigned pair;
    __builtin_memcpy(&pair, a, sizeof(pair));
    return reinterpret_cast<Vector<float>>(Bits{} + pair);
  }
  static Vector<float> load_step(const BFloat16* b) { return load<Vector<float>>(b); }
  static void add(Vector<float>& sum, Vector<float> a, Vector<float> b) {
#if defined(__AVX512BF16__)
    sum = reinterpret_cast<Vector<float>>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                           reinterpret_cast<__m512bh>(a),
                                                           reinterpret_cast<__m512bh>(b)));
#else
    sum += lower(a) * lower(b);
    sum += upper(a) * upper(b);
#endif
  }

 private:
  static Vector<float> lower(Vector<float> pairs) {
    return reinterpret_cast<Vector<float>>(reinterpret_cast<Bits>(pairs) << 16);
  }
  static Vector<float> upper(Vector<float> pairs) {
    return reinterpret_cast<Vector<float>>(reinterpret_cast<Bits>(pairs) & 0xffff0000u);
  }
};

// Rows of the left operand: row m is at data + m * stride, `depth` elements, padded with zeros to
// whole steps.
template <class E>
struct LeftRows {
  const E* data;
  index_t stride;
};

// Packed columns, as the header describes; steps = depth / Product<E>::kStep, rounded up.
template <class E>
struct Panels {
  const E* data;
  index_t columns;
  index_t steps;

  index_t count() const { return (columns + kPanelColumns - 1) / kPanelColumns; }
  static index_t steps_of(index_t depth) {
    return (depth + Product<E>::kStep - 1) / Product<E>::kStep;
  }
  // Column `column` of a panel, from step `step` on; consecutive steps are kPanelColumns * kStep
  // apart.
  const E* at(index_t panel, index_t column) const {
    return data + (panel * steps * kPanelColumns + column) * Product<E>::kStep;
  }
};

// Calls finish(row, vector, sum) for each finished vector of the tile.
template <int kRows, int kVectors, class E, class Finish>
inline void product_tile(const LeftRows<E>& a, index_t row, const E* b, index_t steps,
                         Finish&& finish) {
  using P = Product<E>;
  using C = typename P::Sum;
  Vector<C> sum[kRows][kVectors] = {};
  const E* left[kRows];
  for (int r = 0; r < kRows; ++r) left[r] = a.data + (row + r) * a.stride;
  for (index_t k = 0; k < steps; ++k) {
    Vector<C> right[kVectors];
    for (int v = 0; v < kVectors; ++v)
      right[v] = P::load_step(b + (k * kPanelColumns + v * kLanes<C>)*P::kStep);
    for (int r = 0; r < kRows; ++r) {
      const Vector<C> x = P::broadcast_step(left[r] + k * P::kStep);
      for (int v = 0; v < kVectors; ++v) P::add(sum[r][v], x, right[v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) finish(row + r, v, sum[r][v]);
  }
}

// Multiplies all rows by a tile's columns, in tiles of kRows rows, then of half as many for the
// rest.
template <int kRows, int kVectors, class E, class Finish>
inline void product_rows(const LeftRows<E>& a, index_t row, index_t rows, const E* b, index_t steps,
                         Finish&& finish) {
  for (; row + kRows <= rows; row += kRows) product_tile<kRows, kVectors>(a, row, b, steps, finish);
  if constexpr (kRows > 1) {
    if (row < rows) product_rows<kRows / 2, kVectors>(a, row, rows, b, steps, finish);
  }
}

template <int kVectors, class E, class Finish>
inline void product_columns(int vectors, const LeftRows<E>& a, index_t rows, const E* b,
                            index_t steps, Finish&& finish) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors)
      return product_columns<kVectors - 1>(vectors, a, rows, b, steps, finish);
  }
  product_rows<kTileRows, kVectors>(a, 0, rows, b, steps, finish);
}

// Multiplies `rows` rows by the columns of one panel. Calls finish(row, column, sum) for every
// vector of the result, with `column` counted from the panel's first. Vectors entirely beyond the
// last column of the weight are left out.
template <class E, class Finish>
inline void product(const LeftRows<E>& a, index_t rows, const Panels<E>& panels, index_t panel,
                    Finish&& finish) {
  using C = typename Product<E>::Sum;
  constexpr index_t kTileColumns = kTileVectors * kLanes<C>;
  const index_t columns = smaller(kPanelColumns, panels.columns - panel * kPanelColumns);
  for (index_t column = 0; column < columns; column += kTileColumns) {
    const index_t left = smaller(kTileColumns, columns - column);
    const int vectors = static_cast<int>((left + kLanes<C> - 1) / kLanes<C>);
    product_columns<kTileVectors>(
        vectors, a, rows, panels.at(panel, column), panels.steps,
        [&](index_t row, int v, Vector<C> sum) { finish(row, column + v * kLanes<C>, sum); });
  }
}

TRANSNEXT_END_LEVEL
