// The bias of the pooled logits in the fused attention kernels, in shared memory for a tile and a
// chunk of pooled keys.
//
// Extrapolation's table has one entry for each distance, so that over a tile
//
//   bias(i, j, a, b) = table[first_row[a] + i - top, first_column[b] + j - left],
//
// which the kernel checks for its tile. It then keeps the table rows that a chunk needs in a ring:
// they are read along their columns, and the next chunk finds most of them there. Of any other bias
// (dense, interpolated, maps of another kind) each query's and key's value is computed, for fewer keys
// at a time.
//
// Either way a value's place is the sum of its query's and its key's, less the ring's size where the
// ring ends.
#pragma once

#include "device/async_copy.cuh"
#include "device/attention_rows.cuh"
#include "device/pooled_bias.cuh"
#include "transnext/aggregated_attention.h"

namespace transnext::device {

template <class Tile, class T>
class TileBias {
 public:
  // `first_rows`, `first_columns` and `values` are the layout's places. All threads of the block call
  // this together.
  __device__ TileBias(const AggregatedAttentionInputs& in, TileState* state, BiasRing shape,
                      int* first_rows, int* first_columns, float* values)
      : in_(in),
        state_(state),
        shape_(shape),
        first_rows_(first_rows),
        first_columns_(first_columns),
        values_(values) {
    const PoolBias& bias = in.pool_bias;
    if (thread_index() == 0) {
      state->bias = !bias.values.present() ? BiasKind::kNone
                    : shape.rows == 0      ? BiasKind::kOwn
                                           : BiasKind::kRing;
      state->low[1] = state->high[1] = 0;
      if (!bias.values.present()) values[0] = 0.0f;
    }
    __syncthreads();
    if (shape.rows == 0) return;
    find_first(bias.row_map.data, bias.row_map.stride, pool_height(), state->top,
               place().rows_inside(), first_rows);
    find_first(bias.col_map.data, bias.col_map.stride, pool_width(), state->left,
               place().columns_inside(), first_columns);
    __syncthreads();
    check_order(first_rows, pool_height());
    check_order(first_columns, pool_width());
    const int lowest_column = lower(first_columns[0], first_columns[pool_width() - 1]);
    const int width = higher(first_columns[0], first_columns[pool_width() - 1]) - lowest_column +
                      place().columns_inside();
    if (thread_index() == 0) {
      state->lowest_column = lowest_column;
      state->width = width;
    }
    if (width > shape.width) state->bias = BiasKind::kOwn;
    const int keys = pool_height() * pool_width();
#pragma unroll 1
    for (int first = thread_index() * Tile::kChunkKeys; first < keys;
         first += Tile::kQueries * Tile::kChunkKeys) {
      const int2 rows = rows_of(first, higher_key(first, keys));
      if (rows.y - rows.x > shape.rows) state->bias = BiasKind::kOwn;
    }
    __syncthreads();
  }

  // Pooled keys whose biases fit beside each other.
  __device__ int chunk_keys() const {
    return state_->bias == BiasKind::kOwn ? Tile::kOwnBiasKeys : Tile::kChunkKeys;
  }

  // Asks for the biases of the keys from `first` on, of which `count` are in the chunk, and says in
  // `terms` where each key's begin. The block must have left the chunk before, and wait for its copies
  // and synchronise before it reads.
  __device__ void load_chunk(int first, int count, int buffer, KeyTerms* terms) {
    const BiasKind kind = state_->bias;
    if (kind == BiasKind::kRing) {
      load_ring(first, count, buffer, terms);
      return;
    }
#pragma unroll 1
    for (int key = thread_index(); key < count; key += Tile::kQueries)
      terms[key].bias = kind == BiasKind::kOwn ? key : 0;
    if (kind == BiasKind::kNone) return;
    // Neighbouring threads take neighbouring keys, which a dense bias holds side by side.
#pragma unroll 1
    for (int i = thread_index(); i < Tile::kQueries * Tile::kOwnBiasKeys; i += Tile::kQueries) {
      const int query = i / Tile::kOwnBiasKeys;
      const int key = first + i % Tile::kOwnBiasKeys;
      if (key >= first + count || !place().inside(query)) continue;
      values_[query * kStride + i % Tile::kOwnBiasKeys] =
          PooledBias(in_.pool_bias, state_->head)
              .at(place().row(query), place().column(query), place().token(query),
                  key / pool_width(), key % pool_width(), key);
    }
  }

  // Where a query's biases begin; those of queries outside the image are another's.
  __device__ int place_of(int query) const {
    if (state_->bias == BiasKind::kNone || !place().inside(query)) return 0;
    return state_->bias == BiasKind::kRing ? Tile::row(query) * shape_.width + Tile::column(query)
                                           : query * kStride;
  }

  // Reads of a chunk.
  struct Values {
    const float* values;
    unsigned size;  // of the ring

    __device__ float operator()(int query_place, int key_place) const {
      const unsigned place = static_cast<unsigned>(query_place + key_place);
      const unsigned wrapped = place - size;  // beyond every place where the ring does not end
      return values[wrapped < place ? wrapped : place];
    }
  };
  __device__ Values values() const {
    return {values_,
            state_->bias == BiasKind::kRing ? static_cast<unsigned>(shape_.size()) : 0x80000000u};
  }

 private:
  static constexpr int kStride = bias_stride(Tile::kSize, OnTensorCores<T>::value);

  __device__ TilePlace<Tile> place() const { return {state_, &in_.grid}; }
  __device__ int pool_height() const { return static_cast<int>(in_.pool_grid.height); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }

  __device__ static int lower(int a, int b) { return a < b ? a : b; }
  __device__ static int higher(int a, int b) { return a > b ? a : b; }
  __device__ static int higher_key(int first, int keys) {
    return first + Tile::kChunkKeys < keys ? first + Tile::kChunkKeys : keys;
  }

  // The table rows of keys first to end - 1: from x to y - 1.
  __device__ int2 rows_of(int first, int end) const {
    const int a = first_rows_[first / pool_width()];
    const int b = first_rows_[(end - 1) / pool_width()];
    return {lower(a, b), higher(a, b) + place().rows_inside()};
  }

  __device__ void load_ring(int first, int count, int buffer, KeyTerms* terms) {
#pragma unroll 1
    for (int key = thread_index(); key < count; key += Tile::kQueries) {
      const int row = (first + key) / pool_width();
      const int column = (first + key) % pool_width();
      terms[key].bias = ring_row(first_rows_[row]) * shape_.width + first_columns_[column] -
                        state_->lowest_column;
    }
    const int2 rows = rows_of(first, first + count);
    const View<3>& table = in_.pool_bias.values;
    const auto* entries = static_cast<const float*>(table.data) + state_->head * table.stride[0] +
                          state_->lowest_column * table.stride[2];
    const int here_low = state_->low[1 - buffer];  // from the chunk before
    const int here_high = state_->high[1 - buffer];
#pragma unroll 1
    for (int row = rows.x + thread_index() / 32; row < rows.y; row += Tile::kQueries / 32) {
      if (row >= here_low && row < here_high) continue;
      float* to = values_ + ring_row(row) * shape_.width;
      const float* from = entries + row * table.stride[1];
#pragma unroll 1
      for (int column = thread_index() % 32; column < state_->width; column += 32)
        copy_async_4(to + column, from + column * table.stride[2], true);
    }
    commit_copies();
    if (thread_index() == 0) {
      state_->low[buffer] = rows.x;
      state_->high[buffer] = rows.y;
    }
  }

  __device__ int ring_row(int row) const {
    return static_cast<int>(static_cast<unsigned>(row) % static_cast<unsigned>(shape_.rows));
  }

  // first[x] = map[begin][x] for x < count; no ring unless map[begin + step][x] is first[x] + step.
  __device__ void find_first(const void* map, const index_t* stride, int count, int begin,
                             int steps, int* first) const {
    const int* from = static_cast<const int*>(map) + begin * stride[0];
#pragma unroll 1
    for (int i = thread_index(); i < count * steps; i += Tile::kQueries) {
      const int x = i % count;
      const int step = i / count;
      const int base = from[x * stride[1]];
      if (step == 0) first[x] = base;
      if (from[step * stride[0] + x * stride[1]] != base + step) state_->bias = BiasKind::kOwn;
    }
  }

  // No ring unless they rise or fall throughout, so that the ends of a stretch bound it.
  __device__ void check_order(const int* first, int count) const {
    const bool falls = first[count - 1] < first[0];
#pragma unroll 1
    for (int x = thread_index(); x < count - 1; x += Tile::kQueries) {
      if (falls ? first[x + 1] > first[x] : first[x + 1] < first[x]) state_->bias = BiasKind::kOwn;
    }
  }

  const AggregatedAttentionInputs& in_;
  TileState* state_;
  BiasRing shape_;
  int* first_rows_;
  int* first_columns_;
  float* values_;
};

}  // namespace transnext::device
