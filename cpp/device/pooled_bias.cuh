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

  // Of a dense bias, and of a table whose maps grow by one from row to row and from column to column of
  // the image: the value of a query and a key is key_entries(a, b, m)[query_place(i, j, n)].
  __device__ const float* key_entries(int a, int b, int m) const {
    if (bias_.dense()) return values_ + m * bias_.values.stride[2];
    return values_ + table_row(0, a) * bias_.values.stride[1] +
           table_column(0, b, 0) * bias_.values.stride[2];
  }
  __device__ int query_place(int i, int j, int n) const {
    const int row_step = static_cast<int>(bias_.values.stride[1]);
    if (bias_.dense()) return n * row_step;
    return i * row_step + j * static_cast<int>(bias_.values.stride[2]);
  }

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
  struct State {
    int row_bounds[2], column_bounds[2];
    int steps;     // whether neighbouring queries read neighbouring entries
    int in_patch;  // whether the entries are in the patch
  };

  // What load() fills: rows [rectangle rows, Hp], columns and weights [rectangle columns, Wp, taps],
  // patch [capacity].
  struct Memory {
    int* rows;
    int* columns;
    float* weights;
    State* state;
    float* patch;
    int capacity;
  };

  __device__ RectangleBias(const AggregatedAttentionInputs& in, index_t head, const Memory& memory)
      : in_(in), bias_(in.pool_bias), head_(head), memory_(memory) {}

  // All threads of the block together; they may use the bias after the next barrier.
  __device__ void load(const PooledBias& global, const Rectangle& rectangle) const {
    if (!bias_.table()) return;
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    const int rows = rectangle.height * pool_height();
    const int columns = rectangle.width * pool_width() * taps();
    const bool weighted = bias_.col_weights.present();
    State& state = *memory_.state;
    if (thread == 0) state.steps = 1;
#pragma unroll 1
    for (int e = thread; e < rows; e += threads)
      memory_.rows[e] = global.table_row(rectangle.top + e / pool_height(), e % pool_height());
#pragma unroll 1
    for (int e = thread; e < columns; e += threads) {
      const int j = rectangle.left + e / taps() / pool_width();
      const int b = e / taps() % pool_width();
      memory_.columns[e] = global.table_column(j, b, e % taps());
      if (weighted) memory_.weights[e] = global.weight(j, b, e % taps());
    }
    __syncthreads();
    if (thread < 32) {
      find_bounds(memory_.rows, rows, state.row_bounds);
      find_bounds(memory_.columns, columns, state.column_bounds);
    }
    if (taps() > 1 || weighted || !steps(memory_.rows, rows, pool_height()) ||
        !steps(memory_.columns, columns, pool_width()))
      state.steps = 0;
    __syncthreads();
    const int top = state.row_bounds[0];
    const int left = state.column_bounds[0];
    const int height = state.row_bounds[1] - top + 1;
    const int width = pitch();
    const index_t row_stride = bias_.values.stride[1];
    const index_t column_stride = bias_.values.stride[2];
    const bool here = static_cast<index_t>(height) * width <= memory_.capacity;
    if (thread == 0) state.in_patch = here;
#pragma unroll 1
    for (int e = thread; e < rows; e += threads)
      memory_.rows[e] =
          here ? (memory_.rows[e] - top) * width : memory_.rows[e] * static_cast<int>(row_stride);
#pragma unroll 1
    for (int e = thread; e < columns; e += threads)
      memory_.columns[e] =
          here ? memory_.columns[e] - left : memory_.columns[e] * static_cast<int>(column_stride);
    if (!here) return;
    const float* from = global.values() + top * row_stride + left * column_stride;
#pragma unroll 1
    for (int y = thread / 32; y < height; y += threads / 32) {
      const float* row = from + y * row_stride;
#pragma unroll 1
      for (int x = thread % 32; x < width; x += 32)
        memory_.patch[y * width + x] = row[x * column_stride];
    }
  }

  // Whether the bias is in the patch and neighbouring queries are neighbours there: then the value of
  // a query and a key is patch[y pitch() + x + place(a, b)], (y, x) being the query's place in the
  // rectangle.
  __device__ bool in_steps() const {
    return bias_.table() && memory_.state->in_patch != 0 && memory_.state->steps != 0;
  }
  __device__ int pitch() const {
    return memory_.state->column_bounds[1] - memory_.state->column_bounds[0] + 1;
  }
  __device__ int place(int a, int b) const { return memory_.rows[a] + memory_.columns[b]; }

  // Whether the value of a query and a key is query_entries(y, x, n)[key_place(a, b, m)].
  __device__ bool by_places() const {
    return bias_.dense() || (bias_.table() && memory_.state->steps != 0);
  }
  // Query in row y and column x of the rectangle, number n.
  __device__ const float* query_entries(int y, int x, index_t n) const {
    const PooledBias global(bias_, head_);
    if (!bias_.table()) return global.values() + n * bias_.values.stride[1];
    if (memory_.state->in_patch != 0) return memory_.patch + y * pitch() + x;
    return global.values() + y * bias_.values.stride[1] + x * bias_.values.stride[2];
  }
  __device__ int key_place(int a, int b, int m) const {
    return bias_.table() ? place(a, b) : m * static_cast<int>(bias_.values.stride[2]);
  }

  // Query in row i and column j of the rectangle, number n; pooled key (a, b), number m.
  __device__ float at(int i, int j, index_t n, int a, int b, int m) const {
    if (!bias_.table()) return PooledBias(bias_, head_).at(i, j, n, a, b, m);
    const float* row =
        static_cast<const float*>(bias_.values.data) + head_ * bias_.values.stride[0];
    if (memory_.state->in_patch != 0) row = memory_.patch;
    row += memory_.rows[i * pool_height() + a];
    const int first = (j * pool_width() + b) * taps();
    float sum = 0.0f;
#pragma unroll 1
    for (int tap = first; tap < first + taps(); ++tap)
      sum +=
          (bias_.col_weights.present() ? memory_.weights[tap] : 1.0f) * row[memory_.columns[tap]];
    return sum;
  }

 private:
  // Whether values [count / keys, keys] grow by one from row to row, of those this thread looks at.
  __device__ static bool steps(const int* values, int count, int keys) {
    bool result = true;
#pragma unroll 1
    for (int e = keys + static_cast<int>(threadIdx.x); e < count; e += static_cast<int>(blockDim.x))
      result = result && values[e] == values[e - keys] + 1;
    return result;
  }

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

  __device__ int pool_height() const { return static_cast<int>(in_.pool_grid.height); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }
  __device__ int taps() const { return static_cast<int>(bias_.col_map.shape[2]); }

  const AggregatedAttentionInputs& in_;
  const PoolBias& bias_;
  index_t head_;
  Memory memory_;
};

}  // namespace transnext::device
