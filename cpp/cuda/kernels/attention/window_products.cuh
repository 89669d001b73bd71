// The products of a 3 x 3 window on tensor cores, forward and backward, Half and BFloat16: of a patch of
// 16 tokens with the rows of its reach (cuda/kernels/attention/window_columns.cuh), and with the
// window's tokens.
#pragma once

#include "cuda/kernels/attention/row_operand.cuh"
#include "cuda/kernels/attention/window_columns.cuh"
#include "cuda/kernels/attention/window_parameters.cuh"

namespace transnext::device {

// The rows of a reach lie kWidth rows apart from one row of the image to the next.
template <class T, int kDim, int kWidth>
struct ReachRows {
  static constexpr int kWindow = WindowColumns::kWindow;
  static constexpr int kTiles = WindowColumns::kReachTiles;
  static constexpr int kVectorsOfRow = SharedRows<T, kDim>::kRowBytes / kVector16Bytes;
  using Operand = RowOperand<T, kDim>;

  SharedRows<T, kDim> rows;
  int first;  // of the reach

  // Multiplies the patch by its reach; a lane keeps the three columns from x on.
  __device__ void multiply(const Operand& patch, int thread, float (&chosen)[2][kWindow]) const {
    const int x = thread % 32 / 4;
    const Vector16<T>* from = Operand::keys_of(rows, cell(thread, thread % 2), thread);
    float products[kTiles][4] = {};
    WindowColumns columns;
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) patch.multiply(products[n], from + n * 2 * kVectorsOfRow);
    columns.choose(0, x, products[0], products[2]);
    columns.choose(4, x, products[2], products[4]);
    __syncwarp();  // all MMAs together would need more registers than are free
#pragma unroll
    for (int n = 1; n < kTiles; n += 2) patch.multiply(products[n], from + n * 2 * kVectorsOfRow);
    columns.choose(2, x, products[1], products[3]);
    columns.finish(x, chosen);
  }

  // sum += weights rows
  template <int kBlocks>
  __device__ void add(const float (&weights)[2][kWindow], int thread,
                      float (&sum)[kBlocks][4]) const {
    const WindowWeights<T> operands(weights, thread % 32 / 4);
    // Rows of two MMAs: lanes 8 to 15 and 24 to 31 load the second one's.
    const Vector16<T>* from =
        values_of(rows, cell(thread, thread % 2 + thread / 8 % 2 * 2), thread);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      const unsigned a[4] = {operands.of(n, 0), operands.of(n, 1), operands.of(n + 1, 0),
                             operands.of(n + 1, 1)};
      if (n + 1 == kTiles) from -= thread / 8 % 2 * 2 * kVectorsOfRow;  // there is no second MMA
      multiply_values<T, kDim / 8>(sum, a, from + 2 * n * kVectorsOfRow);
    }
  }

 private:
  // The row of the reach in column `column` and this lane's row of it: lanes i, i + 8, i + 16 and i +
  // 24 load row i of an MMA.
  __device__ int cell(int thread, int column) const {
    return first + thread % 8 / 2 * kWidth + column;
  }
};

// A lane's keys are in window row y for the patch's first row of queries, in this one for the second:
// in none for row 0 of its keys, where it is row 3, which is empty.
__device__ inline int row_before(int y) {
  return (y + 3) % 4;
}

// Column `index` of a window row's terms.
__device__ inline float element(const float4& four, int index) {
  return index == 0 ? four.x : index == 1 ? four.y : four.z;
}

// The tokens are the columns of two MMAs: column 2 y + x, x < 2, of the first holds the token of window
// row y and column x, column 2 y of the second that of column 2; the others are zero. They are divided
// by a power of two, to below 2, and kept as two numbers of T, exact to 2^-16 (BFloat16) or 2^-22
// (Half) of the largest.
template <class T, int kDim>
struct WindowTokens {
  static constexpr int kWindow = WindowColumns::kWindow;
  static constexpr int kVectorsOfRow = SharedRows<T, kDim>::kRowBytes / kVector16Bytes;
  using Operand = RowOperand<T, kDim>;

  SharedRows<T, kDim> rows;  // [kTokenRows], then kTokenRows more with their rounding errors

  // The power of two, by one warp.
  __device__ static float find_scale(const WindowParameters& parameters) {
    constexpr int kCells = kWindow * kWindow;
    float most = 0.0f;
#pragma unroll 1
    for (int i = thread_index() % 32; i < kDim * kCells; i += 32)
      most = fmaxf(most, fabsf(parameters.token(i % kCells, i / kCells)));
    return power_of_largest(most);
  }

  // By all of a block's `threads`.
  __device__ void load(const WindowParameters& parameters, float scale, int threads) const {
    const float up = 1.0f / scale;
#pragma unroll 1
    for (int i = thread_index(); i < kTokenRows * kDim; i += threads) {
      const int column = i / kDim;
      const int c = i % kDim;
      const int y = column % 8 / 2;
      const int x = column / 8 * 2 + column % 2;
      const float token =
          y < kWindow && x < kWindow ? parameters.token(y * kWindow + x, c) * up : 0.0f;
      T high;
      T low;
      from_float(token, high);
      from_float(token - to_float(high), low);
      const int vector = c / Vector16<T>::kElements;
      rows.vector(column, vector)->values[c % Vector16<T>::kElements] = high;
      rows.vector(kTokenRows + column, vector)->values[c % Vector16<T>::kElements] = low;
    }
  }

  // The products of a patch's tokens with a lane's cells, n columns of the window from 2 n on.
  __device__ void multiply(const Operand& patch, int lane, int n, float (&products)[4]) const {
    const Vector16<T>* columns = Operand::keys_of(rows, lane % 8, lane);
    patch.multiply(products, columns + n * 8 * kVectorsOfRow);
    patch.multiply(products, columns + (kTokenRows + n * 8) * kVectorsOfRow);
  }
  // Of these, cell e of the second half's window row, which is the row's previous lane's.
  __device__ static float second_half(const float (&products)[4], int e, int y) {
    return __shfl_sync(0xffffffffu, products[2 + e], row_before(y), 4);
  }

  // sum += weights tokens, where a lane has the weights of window row y for both halves.
  __device__ void add(const unsigned (&weights)[4], int thread, float (&sum)[kDim / 8][4]) const {
    const Vector16<T>* from = values_of(rows, thread % 16, thread);
    multiply_values<T, kDim / 8>(sum, weights, from);
    multiply_values<T, kDim / 8>(sum, weights, from + kTokenRows * kVectorsOfRow);
  }
};

}  // namespace transnext::device
