// The packed GEMM: rows in scratch memory times a packed weight, the arithmetic of every Linear:
//
//   out[m][n] = sum over k of a[m][k] weight[n][k]
//
// The weight is packed once into panels of kPanelColumns columns, [panel][k][column], with zeros
// beyond the last column, so the inner loop reads it sequentially. Panels are the same for every
// instruction set; each level splits them into tiles of kTileVectors vectors, so that the sums fit
// into its registers.
//
// bfloat16 is packed in pairs of k, [panel][k / 2][column][2]: one instruction multiplies and adds
// both (AVX-512 BF16); elsewhere the two elements are widened and multiplied one after the other.
// The sums are float32 either way. The inner loops are in packed_gemm.cpp.
#pragma once

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
};
template <>
struct Product<BFloat16> {
  using Sum = float;
  static constexpr int kStep = 2;
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

// Rows that are multiplied at a time: whole tiles, whose sums stay in the first-level cache until
// they are finished.
constexpr index_t kStripRows = 4 * kTileRows;

// sums[row * kPanelColumns + column] = `rows` rows, at most kStripRows, times the columns of one
// panel, in whole vectors. Compiled once per level (packed_gemm.cpp) for all kernels.
void multiply_panel(const LeftRows<float>& a, index_t rows, const Panels<float>& panels,
                    index_t panel, float* sums);
void multiply_panel(const LeftRows<double>& a, index_t rows, const Panels<double>& panels,
                    index_t panel, double* sums);
void multiply_panel(const LeftRows<BFloat16>& a, index_t rows, const Panels<BFloat16>& panels,
                    index_t panel, float* sums);

// Multiplies `rows` rows by the columns of one panel. Calls finish(row, column, sum) for every
// vector of the result, with `column` counted from the panel's first. Vectors entirely beyond the
// last column of the weight are left out.
template <class E, class Finish>
inline void product(const LeftRows<E>& a, index_t rows, const Panels<E>& panels, index_t panel,
                    Finish&& finish) {
  using C = typename Product<E>::Sum;
  alignas(kVectorBytes) C sums[kStripRows * kPanelColumns];
  const index_t columns = smaller(kPanelColumns, panels.columns - panel * kPanelColumns);
  for (index_t first = 0; first < rows; first += kStripRows) {
    const index_t count = smaller(kStripRows, rows - first);
    multiply_panel({a.data + first * a.stride, a.stride}, count, panels, panel, sums);
    for (index_t i = 0; i < count; ++i) {
      for (index_t column = 0; column < columns; column += kLanes<C>)
        finish(first + i, column, load<Vector<C>>(sums + i * kPanelColumns + column));
    }
  }
}

TRANSNEXT_END_LEVEL
