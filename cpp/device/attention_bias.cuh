// The bias of the pooled logits in the fused attention kernels, in shared memory for a tile and a
// chunk of pooled keys.
//
// Extrapolation's table has one entry for each distance, so that over a tile
//
//   bias(i, j, a, b) = table[first_row[a] + i - top, first_column[b] + j - left],
//
// which the kernel checks for its tile. It then keeps the table rows that a chunk needs in a ring:
// they are read along their columns, and the next chunk finds most of them there. Of any other bias
// (dense, interpolated, maps of another kind) each query's and key's value is computed.
#pragma once

#include "device/attention_rows.cuh"
#include "device/pooled_bias.cuh"
#include "transnext/aggregated_attention.h"

namespace transnext::device {

// Floats from one query's values to the next where they are not in a ring: then the lanes that read
// together, 8 queries by 4 keys on tensor cores and 32 queries elsewhere, find different banks.
template <class T>
constexpr int kBiasStride = bias_stride(sizeof(T));

template <class Tile, class T>
class TileBias {
 public:
  // `first_rows`, `first_columns` and `values` are the layout's places. All threads of the block call
  // this together, and synchronise before they go on.
  __device__ TileBias(const AggregatedAttentionInputs& in, TileState* state, BiasRing shape,
                      int* first_rows, int* first_columns, float* values)
      : in_(in),
        state_(state),
        shape_(shape),
        first_rows_(first_rows),
        first_columns_(first_columns),
        values_(values) {
    const PoolBias& bias = in.pool_bias;
    if (threadIdx.x == 0) {
      state->has_ring = shape.rows > 0;
      state->low[1] = state->high[1] = 0;
    }
    if (shape.rows == 0) return;
    __syncthreads();
    find_first(bias.row_map.data, bias.row_map.stride, pool_height(), state->top,
               place().rows_inside(), first_rows, &state->has_ring);
    find_first(bias.col_map.data, bias.col_map.stride, pool_width(), state->left,
               place().columns_inside(), first_columns, &state->has_ring);
    __syncthreads();
    const int lowest_column = lowest(first_columns, 0, pool_width());
    const int width =
        highest(first_columns, 0, pool_width()) - lowest_column + place().columns_inside();
    __syncthreads();  // has_ring may change
    if (threadIdx.x == 0) {
      state->lowest_column = lowest_column;
      state->width = width;
      if (width > shape.width) state->has_ring = 0;
    }
  }

  // Brings a chunk's bias into shared memory; the block must have left the chunk before, and
  // synchronise before it reads.
  __device__ void load_chunk(int chunk, int count, int2* places) {
    if (!in_.pool_bias.values.present()) return;
    const int first_key = chunk * kChunkKeys;
    const bool in_ring = state_->has_ring != 0 && load_ring(chunk, count, places);
    if (threadIdx.x == 0) state_->in_ring = in_ring;
    if (in_ring) return;
    if (threadIdx.x == 0) state_->low[chunk % 2] = state_->high[chunk % 2] = 0;
    // Neighbouring threads take neighbouring keys, which a dense bias holds side by side.
#pragma unroll 1
    for (int i = threadIdx.x; i < Tile::kQueries * kChunkKeys; i += Tile::kQueries) {
      const int query = i / kChunkKeys;
      const int key = first_key + i % kChunkKeys;
      if (key >= count || !place().inside(query)) continue;
      values_[query * kBiasStride<T> + i % kChunkKeys] =
          PooledBias(in_.pool_bias, state_->head)
              .at(place().row(query), place().column(query), place().token(query),
                  key / pool_width(), key % pool_width(), key);
    }
  }

  // The value of a query and a key of the chunk, where `row` and `column` are the query's in the
  // tile.
  __device__ float operator()(const int2* places, int key, int row, int column) const {
    if (!in_.pool_bias.values.present()) return 0.0f;
    if (state_->in_ring == 0)
      return values_[(row * Tile::kColumns + column) * kBiasStride<T> + key];
    const int2 place = places[key];
    return values_[((place.x + row) & (shape_.rows - 1)) * shape_.width + place.y + column];
  }

 private:
  __device__ TilePlace<Tile> place() const { return {state_, &in_.grid}; }
  __device__ int pool_height() const { return static_cast<int>(in_.pool_grid.height); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }

  // The table rows of a chunk, and where each key's entries begin; false if they are too many.
  __device__ bool load_ring(int chunk, int count, int2* places) {
    const int first_key = chunk * kChunkKeys;
    const int last_key = (first_key + kChunkKeys < count ? first_key + kChunkKeys : count) - 1;
    const int a = first_key / pool_width();
    const int last_a = last_key / pool_width() + 1;
    const int low = lowest(first_rows_, a, last_a);
    const int high = highest(first_rows_, a, last_a) + place().rows_inside();
    if (high - low > shape_.rows) return false;
#pragma unroll 1
    for (int key = first_key + threadIdx.x; key <= last_key; key += Tile::kQueries) {
      places[key - first_key] = int2{first_rows_[key / pool_width()],
                                     first_columns_[key % pool_width()] - state_->lowest_column};
    }
    const View<3>& table = in_.pool_bias.values;
    const auto* entries = static_cast<const float*>(table.data) + state_->head * table.stride[0] +
                          state_->lowest_column * table.stride[2];
    const int here_low = state_->low[(chunk + 1) % 2];  // from the chunk before
    const int here_high = state_->high[(chunk + 1) % 2];
#pragma unroll 1
    for (int row = low + static_cast<int>(threadIdx.x) / 32; row < high;
         row += Tile::kQueries / 32) {
      if (row >= here_low && row < here_high) continue;
      float* to = values_ + (row & (shape_.rows - 1)) * shape_.width;
      const float* from = entries + row * table.stride[1];
#pragma unroll 1
      for (int column = static_cast<int>(threadIdx.x) % 32; column < state_->width; column += 32)
        to[column] = from[column * table.stride[2]];
    }
    if (threadIdx.x == 0) {
      state_->low[chunk % 2] = low;
      state_->high[chunk % 2] = high;
    }
    return true;
  }

  // first[x] = map[begin, x], and *flag = 0 unless map[begin + i, x] = first[x] + i for i < steps.
  __device__ static void find_first(const void* map, const index_t* stride, index_t size, int begin,
                                    int steps, int* first, int* flag) {
    const int* from = static_cast<const int*>(map) + begin * stride[0];
    const int columns = static_cast<int>(size);
#pragma unroll 1
    for (int i = threadIdx.x; i < columns * steps; i += Tile::kQueries) {
      const int x = i % columns;
      const int step = i / columns;
      const int base = from[x * stride[1]];
      if (step == 0) first[x] = base;
      if (from[step * stride[0] + x * stride[1]] != base + step) *flag = 0;
    }
  }

  __device__ static int lowest(const int* values, int begin, int end) {
    int result = values[begin];
#pragma unroll 1
    for (int i = begin + 1; i < end; ++i) result = values[i] < result ? values[i] : result;
    return result;
  }
  __device__ static int highest(const int* values, int begin, int end) {
    int result = values[begin];
#pragma unroll 1
    for (int i = begin + 1; i < end; ++i) result = values[i] > result ? values[i] : result;
    return result;
  }

  const AggregatedAttentionInputs& in_;
  TileState* state_;
  BiasRing shape_;
  int* first_rows_;
  int* first_columns_;
  float* values_;
};

}  // namespace transnext::device
