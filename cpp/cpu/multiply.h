// A small matrix product, the inner loop of the attention and position-bias kernels:
//
//   out[m][n] = (accumulate ? out[m][n] : 0) + sum over k of a(m, k) b[k][n]
//
// n lies in the vector lanes and must be padded to whole vectors in b and out; a is read as scalars
// with any strides, so its transpose needs no copy. Tiles of 4 rows by 2 vectors keep 8 sums in
// registers: 8 products for 6 loads, enough independent sums to cover the latency of one
// multiply-add.
#pragma once

#include "cpu/simd.h"

TRANSNEXT_BEGIN_LEVEL

// a(m, k) = data[m * row_stride + k * depth_stride]
template <class C>
struct Scalars {
  const C* data;
  index_t row_stride;
  index_t depth_stride;
};

// Rows of `stride` elements, a whole number of vectors in use.
template <class C>
struct LaneRows {
  C* data;
  index_t stride;
};

template <int kRows, int kVectors, class C>
inline void multiply_tile(index_t depth, const C* a, const Scalars<C>& layout, const C* b,
                          index_t b_stride, C* out, index_t out_stride, bool accumulate) {
  Vector<C> sum[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v)
      sum[row][v] =
          accumulate ? load<Vector<C>>(out + row * out_stride + v * kLanes<C>) : Vector<C>{};
  }
  for (index_t k = 0; k < depth; ++k) {
    Vector<C> right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = load<Vector<C>>(b + k * b_stride + v * kLanes<C>);
    for (int row = 0; row < kRows; ++row) {
      const C left = a[row * layout.row_stride + k * layout.depth_stride];
      for (int v = 0; v < kVectors; ++v) sum[row][v] += left * right[v];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) store(out + row * out_stride + v * kLanes<C>, sum[row][v]);
  }
}

template <int kVectors, class C>
inline void multiply_columns(index_t rows, index_t depth, const Scalars<C>& a, const C* b,
                             index_t b_stride, C* out, index_t out_stride, bool accumulate) {
  index_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    multiply_tile<4, kVectors>(depth, a.data + row * a.row_stride, a, b, b_stride,
                               out + row * out_stride, out_stride, accumulate);
  }
  for (; row < rows; ++row) {
    multiply_tile<1, kVectors>(depth, a.data + row * a.row_stride, a, b, b_stride,
                               out + row * out_stride, out_stride, accumulate);
  }
}

// out: [rows][width], b: [depth][width], width a multiple of kLanes<C>.
template <class C>
inline void multiply(index_t rows, index_t depth, index_t width, const Scalars<C>& a,
                     const LaneRows<const C>& b, const LaneRows<C>& out, bool accumulate) {
  constexpr index_t kPair = 2 * kLanes<C>;
  index_t column = 0;
  for (; column + kPair <= width; column += kPair)
    multiply_columns<2>(rows, depth, a, b.data + column, b.stride, out.data + column, out.stride,
                        accumulate);
  if (column < width)
    multiply_columns<1>(rows, depth, a, b.data + column, b.stride, out.data + column, out.stride,
                        accumulate);
}

TRANSNEXT_END_LEVEL
