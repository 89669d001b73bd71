// Extrapolation's table has an entry for each distance: its maps grow by one from row to row and from
// column to column of the image, so that
//
//   bias(i, j, a, b) = table[row_map[0, a] + i, col_map[0, b] + j].
#pragma once

#include "device/pooled_bias.cuh"

namespace transnext::device {

// Whether it is such a table for the image rows from `top` to `bottom` and all columns. All threads of
// the block call this together.
__device__ inline bool grows_by_steps(const PooledBias& bias, const AggregatedAttentionInputs& in,
                                      int top, int bottom) {
  if (!in.pool_bias.table()) return false;
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int pool_height = static_cast<int>(in.pool_grid.height);
  const int pool_width = static_cast<int>(in.pool_grid.width);
  const int width = static_cast<int>(in.grid.width);
  bool steps = bias.taps() == 1 && !in.pool_bias.col_weights.present();
#pragma unroll 1
  for (int e = thread; e < (bottom - top) * pool_height; e += threads) {
    const int i = top + e / pool_height;
    const int a = e % pool_height;
    steps = steps && bias.table_row(i, a) == bias.table_row(0, a) + i;
  }
#pragma unroll 1
  for (int e = thread; e < width * pool_width; e += threads) {
    const int j = e / pool_width;
    const int b = e % pool_width;
    steps = steps && bias.table_column(j, b, 0) == bias.table_column(0, b, 0) + j;
  }
  return __syncthreads_and(steps) != 0;
}

// Of such a table, what queries that follow each other in the image and a run of pooled keys read, in
// shared memory: for each pooled row and each image row a run of columns.
class QueriesPatch {
 public:
  // `rows` image rows that the queries may touch, `pitch` entries for each. Nothing is read unless it
  // is `used`.
  __device__ QueriesPatch(const AggregatedAttentionInputs& in, const PooledBias& bias,
                          int first_key, int end_key, int rows, int pitch, float* memory, bool used)
      : bias_(bias),
        view_(in.pool_bias.values),
        rows_(rows),
        pitch_(pitch),
        pool_width_(static_cast<int>(in.pool_grid.width)),
        width_(static_cast<int>(in.grid.width)),
        first_pool_row_(first_key / pool_width_),
        pool_rows_((end_key - 1) / pool_width_ - first_pool_row_ + 1),
        memory_(memory) {
    if (!used) return;
    lowest_ = bias.table_column(0, 0, 0);
    int highest = lowest_;
#pragma unroll 1
    for (int b = 1; b < pool_width_; ++b) {
      const int column = bias.table_column(0, b, 0);
      lowest_ = column < lowest_ ? column : lowest_;
      highest = column > highest ? column : highest;
    }
    span_ = highest - lowest_;
  }

  // Brings what the queries from `first` to `end` read; the block synchronises before and after.
  __device__ void load(int first, int end) {
    top_ = first / width_;
    const int rows = (end - 1) / width_ - top_ + 1;
    left_ = rows == 1 ? first - top_ * width_ : 0;
    const int columns = span_ + (rows == 1 ? end - first : width_);
    const float* from = bias_.values() + (lowest_ + left_) * view_.stride[2];
#pragma unroll 1
    for (int a = static_cast<int>(threadIdx.x) / 32; a < pool_rows_;
         a += static_cast<int>(blockDim.x) / 32) {
#pragma unroll 1
      for (int row = 0; row < rows; ++row) {
        const float* entries =
            from + bias_.table_row(top_ + row, first_pool_row_ + a) * view_.stride[1];
        float* to = memory_ + (a * rows_ + row) * pitch_;
#pragma unroll 1
        for (int column = static_cast<int>(threadIdx.x) % 32; column < columns; column += 32)
          to[column] = entries[column * view_.stride[2]];
      }
    }
  }

  // The value of a query in row i and column j, and of key (a, b), is memory[query_place(i, j) +
  // key_place(a, b)].
  __device__ int query_place(int i, int j) const { return (i - top_) * pitch_ + j - left_; }
  __device__ int key_place(int a, int b) const {
    return (a - first_pool_row_) * rows_ * pitch_ + bias_.table_column(0, b, 0) - lowest_;
  }

 private:
  const PooledBias& bias_;
  const View<3>& view_;
  int rows_, pitch_, pool_width_, width_, first_pool_row_, pool_rows_;
  float* memory_;
  int lowest_ = 0, span_ = 0, top_ = 0, left_ = 0;
};

}  // namespace transnext::device
