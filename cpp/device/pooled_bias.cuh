// The bias of a pooled logit, dense or by table and axis maps (transnext/aggregated_attention.h),
// and the gradient's way back to the table.
#pragma once

#include "device/rectangle.cuh"
#include "transnext/aggregated_attention.h"

namespace transnext::device {

class PooledBias {
 public:
  __device__ PooledBias(const PoolBias& bias, index_t head)
      : bias_(bias),
        values_(static_cast<const float*>(bias.values.data) + head * bias.values.stride[0]) {}

  // Query (i, j) = number n, pooled key (a, b) = number m.
  __device__ float at(int i, int j, index_t n, int a, int b, int m) const {
    if (!bias_.values.present()) return 0.0f;
    if (!bias_.row_map.present())
      return values_[n * bias_.values.stride[1] + m * bias_.values.stride[2]];
    const float* row = values_ + table_row(i, a) * bias_.values.stride[1];
    float sum = 0.0f;
#pragma unroll 1
    for (int tap = 0; tap < taps(); ++tap)
      sum += weight(j, b, tap) * row[table_column(j, b, tap) * bias_.values.stride[2]];
    return sum;
  }

  __device__ const float* values() const { return values_; }
  __device__ int taps() const { return static_cast<int>(bias_.col_map.shape[2]); }
  __device__ int table_row(int i, int a) const {
    return static_cast<const int*>(
        bias_.row_map.data)[i * static_cast<int>(bias_.row_map.stride[0]) +
                            a * static_cast<int>(bias_.row_map.stride[1])];
  }
  __device__ int table_column(int j, int b, int tap) const {
    return static_cast<const int*>(bias_.col_map.data)[offset(bias_.col_map, j, b, tap)];
  }
  __device__ float weight(int j, int b, int tap) const {
    if (!bias_.col_weights.present()) return 1.0f;
    return static_cast<const float*>(bias_.col_weights.data)[offset(bias_.col_weights, j, b, tap)];
  }

 private:
  __device__ static int offset(const View<3>& map, int j, int b, int tap) {
    return j * static_cast<int>(map.stride[0]) + b * static_cast<int>(map.stride[1]) +
           tap * static_cast<int>(map.stride[2]);
  }

  const PoolBias& bias_;
  const float* values_;
};

// The same for the queries of a rectangle, with the maps in shared memory, and the table's entries
// too where the rectangle reads few enough of them.
class RectangleBias {
 public:
  // What load() fills: rows [rectangle rows, Hp], columns and weights [rectangle columns, Wp, taps],
  // bounds [4], patch [capacity].
  struct Memory {
    int* rows;
    int* columns;
    float* weights;
    int* bounds;
    float* patch;
    int capacity;
  };

  __device__ RectangleBias(const AggregatedAttentionInputs& in, index_t head)
      : bias_(in.pool_bias),
        pool_height_(static_cast<int>(in.pool_grid.height)),
        pool_width_(static_cast<int>(in.pool_grid.width)),
        taps_(in.pool_bias.table() ? static_cast<int>(in.pool_bias.col_map.shape[2]) : 0),
        dense_(in.pool_bias.dense()),
        values_(static_cast<const float*>(in.pool_bias.values.data) +
                head * in.pool_bias.values.stride[0]) {}

  // All threads of the block together; they may use the bias after the next barrier.
  __device__ void load(const PooledBias& global, const Rectangle& rectangle, const Memory& memory) {
    if (taps_ == 0) return;
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    const int rows = rectangle.height * pool_height_;
    const int columns = rectangle.width * pool_width_ * taps_;
    rows_ = memory.rows;
    columns_ = memory.columns;
    weights_ = bias_.col_weights.present() ? memory.weights : nullptr;
#pragma unroll 1
    for (int e = thread; e < rows; e += threads)
      memory.rows[e] = global.table_row(rectangle.top + e / pool_height_, e % pool_height_);
#pragma unroll 1
    for (int e = thread; e < columns; e += threads) {
      const int j = rectangle.left + e / taps_ / pool_width_;
      const int b = e / taps_ % pool_width_;
      memory.columns[e] = global.table_column(j, b, e % taps_);
      if (weights_ != nullptr) memory.weights[e] = global.weight(j, b, e % taps_);
    }
    __syncthreads();
    if (thread < 32) {
      find_bounds(memory.rows, rows, memory.bounds);
      find_bounds(memory.columns, columns, memory.bounds + 2);
    }
    __syncthreads();
    const int top = memory.bounds[0];
    const int left = memory.bounds[2];
    const int height = memory.bounds[1] - top + 1;
    const int width = memory.bounds[3] - left + 1;
    const index_t row_stride = bias_.values.stride[1];
    const index_t column_stride = bias_.values.stride[2];
    const bool here = static_cast<index_t>(height) * width <= memory.capacity;
#pragma unroll 1
    for (int e = thread; e < rows; e += threads)
      memory.rows[e] =
          here ? (memory.rows[e] - top) * width : memory.rows[e] * static_cast<int>(row_stride);
#pragma unroll 1
    for (int e = thread; e < columns; e += threads)
      memory.columns[e] =
          here ? memory.columns[e] - left : memory.columns[e] * static_cast<int>(column_stride);
    if (!here) return;
    const float* from = values_ + top * row_stride + left * column_stride;
#pragma unroll 1
    for (int e = thread; e < height * width; e += threads)
      memory.patch[e] = from[e / width * row_stride + e % width * column_stride];
    values_ = memory.patch;
  }

  // Query in row i and column j of the rectangle, number n; pooled key (a, b), number m.
  __device__ float at(int i, int j, index_t n, int a, int b, int m) const {
    if (taps_ == 0)
      return dense_ ? values_[n * bias_.values.stride[1] + m * bias_.values.stride[2]] : 0.0f;
    const float* row = values_ + rows_[i * pool_height_ + a];
    const int first = (j * pool_width_ + b) * taps_;
    if (weights_ == nullptr && taps_ == 1) return row[columns_[first]];
    float sum = 0.0f;
#pragma unroll 1
    for (int tap = first; tap < first + taps_; ++tap)
      sum += (weights_ == nullptr ? 1.0f : weights_[tap]) * row[columns_[tap]];
    return sum;
  }

 private:
  // The smallest and the largest of `count` values, by one warp.
  __device__ static void find_bounds(const int* values, int count, int* bounds) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int least = values[0];
    int most = values[0];
    for (int e = lane; e < count; e += 32) {
      least = values[e] < least ? values[e] : least;
      most = values[e] > most ? values[e] : most;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      const int other_least = __shfl_xor_sync(0xffffffffu, least, distance);
      const int other_most = __shfl_xor_sync(0xffffffffu, most, distance);
      least = other_least < least ? other_least : least;
      most = other_most > most ? other_most : most;
    }
    if (lane == 0) {
      bounds[0] = least;
      bounds[1] = most;
    }
  }

  const PoolBias& bias_;
  int pool_height_, pool_width_, taps_;
  bool dense_;
  const float* values_;
  const int* rows_ = nullptr;
  const int* columns_ = nullptr;
  const float* weights_ = nullptr;
};

}  // namespace transnext::device
