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
// shared memory: for each pooled row, the runs of columns of the image rows that the queries touch, one
// behind the other.
class QueriesPatch {
 public:
  // `most` is the largest number of queries, `capacity` the room for entries. Nothing is read unless
  // `steps`.
  __device__ QueriesPatch(const AggregatedAttentionInputs& in, const PooledBias& bias,
                          int first_key, int end_key, int most, float* memory, int capacity,
                          bool steps)
      : bias_(bias), in_(in), memory_(memory), first_pool_row_(first_key / pool_width()) {
    if (!steps) return;
    lowest_ = bias.table_column(0, 0, 0);
    int highest = lowest_;
#pragma unroll 1
    for (int b = 1; b < pool_width(); ++b) {
      const int column = bias.table_column(0, b, 0);
      lowest_ = column < lowest_ ? column : lowest_;
      highest = column > highest ? column : highest;
    }
    span_ = highest - lowest_;
    pool_rows_ = (end_key - 1) / pool_width() - first_pool_row_ + 1;
    const int rows = (most + width() - 2) / width() + 1;
    pitch_ = most + rows * span_;
    used_ = pool_rows_ * pitch_ <= capacity;
  }

  __device__ bool used() const { return used_; }

  // Brings what the queries from `first` to `end` read; the block synchronises before and after.
  __device__ void load(int first, int end) const {
    const View<3>& table = in_.pool_bias.values;
    const int top = first / width();
#pragma unroll 1
    for (int a = static_cast<int>(threadIdx.x) / 32; a < pool_rows_;
         a += static_cast<int>(blockDim.x) / 32) {
      int begin = first;
#pragma unroll 1
      for (int row = top; begin < end; ++row) {
        const int next = (row + 1) * width() < end ? (row + 1) * width() : end;
        const int columns = next - begin + span_;
        const float* entries = bias_.values() +
                               bias_.table_row(row, first_pool_row_ + a) * table.stride[1] +
                               (lowest_ + begin - row * width()) * table.stride[2];
        float* to = memory_ + a * pitch_ + begin - first + (row - top) * span_;
#pragma unroll 1
        for (int column = static_cast<int>(threadIdx.x) % 32; column < columns; column += 32)
          to[column] = entries[column * table.stride[2]];
        begin = next;
      }
    }
  }

  // The value of query n, of those from `first` on, and of key (a, b) is memory[query_place(n, first)
  // + key_place(a, b)].
  __device__ int query_place(int n, int first) const {
    return n - first + (n / width() - first / width()) * span_;
  }
  __device__ int key_place(int a, int b) const {
    return (a - first_pool_row_) * pitch_ + bias_.table_column(0, b, 0) - lowest_;
  }

 private:
  __device__ int width() const { return static_cast<int>(in_.grid.width); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }

  const PooledBias& bias_;
  const AggregatedAttentionInputs& in_;
  float* memory_;
  int first_pool_row_, pool_rows_ = 0, lowest_ = 0, span_ = 0, pitch_ = 0;
  bool used_ = false;
};

}  // namespace transnext::device
