// The small GEMM, the inner loop of the attention and position-bias kernels:
//
//   out[m][n] = start[m][n] + sum over k of a(m, k) b[k][n]
//
// n lies in the vector lanes and must be padded to a multiple of half a vector in b and out; a is
// read as scalars with any strides, so its transpose needs no copy. A tile of rows by 2 vectors
// keeps its sums in registers: with 8 rows, 16 multiply-adds per 10 loads, enough independent sums
// to hide the latency of one multiply-add. Rows are split into tiles of almost equal height: 49
// rows make seven tiles of 7, not six of 8 and a single row that would wait for its own sums.
#pragma once

#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

// Rows of a tile: its sums, one vector of b per column and a scalar fit the vector registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr index_t kTileRows = 8;
#elif defined(__AVX2__)
constexpr index_t kTileRows = 6;
#else
constexpr index_t kTileRows = 4;
#endif

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

// Columns are kVectors whole vectors and, if kHalf, half a vector. kRowStride: a's row stride if it
// is known at compile time, else 0. Always inlined: compilers would turn tall tiles into functions
// with their sums in memory.
template <int kRows, int kVectors, bool kHalf, int kRowStride, class C>
__attribute__((always_inline)) inline void multiply_tile(index_t depth, const Scalars<C>& a,
                                                         const C* b, index_t b_stride,
                                                         const LaneRows<const C>& start,
                                                         const LaneRows<C>& out) {
  constexpr index_t n = kLanes<C>;
  const index_t row_stride = kRowStride > 0 ? kRowStride : a.row_stride;
  Vector<C> sum[kRows][kVectors > 0 ? kVectors : 1] = {};
  HalfVector<C> half[kRows] = {};
  if (const C* from = start.data; from != nullptr) {
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row, from += start.stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[row][v] = load<Vector<C>>(from + v * n);
      if constexpr (kHalf) half[row] = load<HalfVector<C>>(from + kVectors * n);
    }
  }
  const C* left = a.data;
  for (index_t k = 0; k < depth; ++k, left += a.depth_stride, b += b_stride) {
    Vector<C> right[kVectors > 0 ? kVectors : 1];
    HalfVector<C> right_half{};
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load<Vector<C>>(b + v * n);
    if constexpr (kHalf) right_half = load<HalfVector<C>>(b + kVectors * n);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const C scalar = left[row * row_stride];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[row][v] += scalar * right[v];
      if constexpr (kHalf) half[row] += scalar * right_half;
    }
  }
  C* to = out.data;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row, to += out.stride) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(to + v * n, sum[row][v]);
    if constexpr (kHalf) store(to + kVectors * n, half[row]);
  }
}

// Calls multiply_tile with `rows` as a constant.
template <int kRows, int kVectors, bool kHalf, int kRowStride, class C>
__attribute__((always_inline)) inline void multiply_rows(index_t rows, index_t depth,
                                                         const Scalars<C>& a, const C* b,
                                                         index_t b_stride,
                                                         const LaneRows<const C>& start,
                                                         const LaneRows<C>& out) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return multiply_rows<kRows - 1, kVectors, kHalf, kRowStride>(rows, depth, a, b, b_stride,
                                                                   start, out);
  }
  multiply_tile<kRows, kVectors, kHalf, kRowStride>(depth, a, b, b_stride, start, out);
}

template <int kVectors, bool kHalf, int kRowStride, class C>
TRANSNEXT_PHASE void multiply_columns(index_t rows, index_t depth, const Scalars<C>& a, const C* b,
                                      index_t b_stride, const LaneRows<const C>& start,
                                      const LaneRows<C>& out) {
  const index_t row_stride = kRowStride > 0 ? kRowStride : a.row_stride;
  for (index_t row = 0, tiles = (rows + kTileRows - 1) / kTileRows; tiles > 0; --tiles) {
    const index_t height = (rows - row + tiles - 1) / tiles;
    const C* from = start.data != nullptr ? start.data + row * start.stride : nullptr;
    multiply_rows<kTileRows, kVectors, kHalf, kRowStride, C>(
        height, depth, {a.data + row * row_stride, a.row_stride, a.depth_stride}, b, b_stride,
        {from, start.stride}, {out.data + row * out.stride, out.stride});
    row += height;
  }
}

// out: [rows][width], b: [depth][width], start: [rows][width] or null for 0; width a multiple of
// kLanes<C> / 2.
template <class C, int kRowStride = 0>
inline void multiply(index_t rows, index_t depth, index_t width, const Scalars<C>& a,
                     const LaneRows<const C>& b, const LaneRows<C>& out,
                     const LaneRows<const C>& start) {
  constexpr index_t n = kLanes<C>;
  const auto columns_from = [&](const auto& lanes, index_t column) {
    auto moved = lanes;
    if (moved.data != nullptr) moved.data += column;
    return moved;
  };
  index_t column = 0;
  const auto columns = [&](auto vectors, auto half) {
    multiply_columns<vectors, half, kRowStride, C>(rows, depth, a, b.data + column, b.stride,
                                                   columns_from(start, column),
                                                   columns_from(out, column));
  };
  constexpr std::integral_constant<int, 0> kNone{};
  constexpr std::integral_constant<int, 1> kOne{};
  constexpr std::integral_constant<int, 2> kTwo{};
  for (; column + 2 * n <= width; column += 2 * n) columns(kTwo, std::false_type());
  const index_t rest = width - column;
  if (rest > n) {
    columns(kOne, std::true_type());
  } else if (rest == n) {
    columns(kOne, std::false_type());
  } else if (rest > 0) {
    columns(kNone, std::true_type());
  }
}

template <class C>
inline void multiply(index_t rows, index_t depth, index_t width, const Scalars<C>& a,
                     const LaneRows<const C>& b, const LaneRows<C>& out, bool accumulate) {
  multiply<C>(rows, depth, width, a, b, out,
              LaneRows<const C>{accumulate ? out.data : nullptr, out.stride});
}

TRANSNEXT_END_LEVEL
