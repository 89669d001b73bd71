// The bias of the pooled logits in the fused attention kernels, for a tile and a chunk of pooled keys.
//
// A dense bias, and over a tile extrapolation's table, which has one entry for each distance, are
//
//   bias(n, m) = values[offset(n) + offset(m)],
//
// so they are read in place: among the lanes that read together, 8 queries are neighbours in the
// table or 4 keys in a dense bias, and a tile's entries of a chunk stay in the first-level cache.
// The kernel checks for its tile that a table's maps grow by one from row to row and from column to
// column. Any other bias (interpolated, maps of another kind) is computed into shared memory for
// each query and key, for fewer keys at a time.
#pragma once

#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/bias/pooled_bias.cuh"
#include "transnext/aggregated_attention.h"

namespace transnext::device {

template <class Tile, class T>
class TileBias {
 public:
  // `values` is the layout's memory for biases.
  __device__ TileBias(const AggregatedAttentionInputs& in, TileState* state, float* values)
      : in_(in), state_(state), values_(values) {}

  // Where the biases are, as far as one thread can tell; it stores that for the block.
  __device__ static BiasKind kind_of(const PoolBias& bias, bool in_place) {
    return !bias.values.present() ? BiasKind::kNone
           : in_place             ? BiasKind::kInPlace
                                  : BiasKind::kOwn;
  }

  // Falls back to computed biases if a table's maps are of another kind. All threads of the block
  // call this together, between two barriers, since some threads may write the kind while none may
  // read it.
  __device__ void check_maps(bool in_place) const {
    if (!in_place || !in_.pool_bias.table()) return;
    const View<2>& rows = in_.pool_bias.row_map;
    const View<3>& columns = in_.pool_bias.col_map;
    const View<3>& values = in_.pool_bias.values;
    if (values.shape[1] < position().rows_inside() ||
        values.shape[2] < position().columns_inside() ||
        !steps(rows.data, rows.stride, pool_height(), state_->top, position().rows_inside()) ||
        !steps(columns.data, columns.stride, pool_width(), state_->left,
               position().columns_inside()))
      state_->bias = BiasKind::kOwn;
  }

  // Pooled keys whose biases fit beside each other.
  __device__ int chunk_keys() const {
    return state_->bias == BiasKind::kOwn ? Tile::kOwnBiasKeys : Tile::kChunkKeys;
  }

  // Stores the bias offsets of the keys from `first` on in `terms`: `count` keys belong to the
  // chunk, and up to `padded` get a valid offset. Computes the biases if necessary. The block must
  // have left the previous chunk, and synchronise before it reads.
  __device__ void load_chunk(int first, int count, int padded, KeyTerms* terms) const {
    const BiasKind kind = state_->bias;
#pragma unroll 1
    for (int key = thread_index(); key < padded; key += Tile::kQueries) {
      const int last = key < count ? key : count - 1;
      const int offset = kind == BiasKind::kNone  ? 0
                         : kind == BiasKind::kOwn ? last
                                                  : key_offset(first + last);
      terms[key].bias = static_cast<index_t>(offset) * 4;
    }
    if (kind == BiasKind::kNone && thread_index() == 0) values_[0] = 0.0f;
    if (kind == BiasKind::kOwn) compute(first, count);
  }

  // A query's offset; queries outside the image read another query's biases.
  __device__ int query_offset(int query) const {
    if (state_->bias == BiasKind::kNone || !position().inside(query)) return 0;
    if (state_->bias == BiasKind::kOwn) return query * kStride;
    const View<3>& values = in_.pool_bias.values;
    if (in_.pool_bias.dense()) return position().token(query) * static_cast<int>(values.stride[1]);
    return Tile::row(query) * static_cast<int>(values.stride[1]) +
           Tile::column(query) * static_cast<int>(values.stride[2]);
  }

  // The base of all offsets, in global or in shared memory.
  __device__ const float* values() const {
    return state_->bias == BiasKind::kInPlace ? PooledBias(in_.pool_bias, state_->head).values()
                                              : values_;
  }

 private:
  static constexpr int kStride = bias_stride(Tile::kSize, OnTensorCores<T>::value);

  __device__ TilePosition<Tile> position() const { return {state_, &in_.grid}; }
  __device__ int pool_height() const { return static_cast<int>(in_.pool_grid.height); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }

  // Whether map[begin + step][x] is map[begin][x] + step, of those this thread looks at.
  __device__ static bool steps(const void* map, const index_t* stride, int count, int begin,
                               int rows) {
    const int* from = static_cast<const int*>(map) + begin * stride[0];
    const auto keys = static_cast<unsigned>(count);
    bool result = true;
#pragma unroll 1
    for (unsigned i = thread_index(); i < keys * static_cast<unsigned>(rows); i += Tile::kQueries) {
      const unsigned step = i / keys;
      const int* base = from + static_cast<int>(i - step * keys) * static_cast<int>(stride[1]);
      const int entry = base[static_cast<int>(step) * static_cast<int>(stride[0])];
      result = result && entry == *base + static_cast<int>(step);
    }
    return result;
  }

  __device__ int key_offset(int key) const {
    const View<3>& values = in_.pool_bias.values;
    const int column_stride = static_cast<int>(values.stride[2]);
    if (in_.pool_bias.dense()) return key * column_stride;
    const PooledBias bias(in_.pool_bias, state_->head);
    const int row = key / pool_width();
    const int column = key - row * pool_width();
    return bias.first_table_row(state_->top, row, position().rows_inside() - 1) *
               static_cast<int>(values.stride[1]) +
           bias.first_table_column(state_->left, column, position().columns_inside() - 1) *
               column_stride;
  }

  // Neighbouring threads compute neighbouring keys, one per thread.
  __device__ void compute(int first, int count) const {
    const int key = thread_index() % Tile::kOwnBiasKeys;
    if (key >= count) return;
    const int m = first + key;
    const int row = m / pool_width();
    const int column = m - row * pool_width();
    const PooledBias bias(in_.pool_bias, state_->head);
#pragma unroll 1
    for (int query = thread_index() / Tile::kOwnBiasKeys; query < Tile::kQueries;
         query += Tile::kQueries / Tile::kOwnBiasKeys) {
      if (!position().inside(query)) continue;
      values_[query * kStride + key] = bias.at(position().row(query), position().column(query),
                                               position().token(query), row, column, m);
    }
  }

  const AggregatedAttentionInputs& in_;
  TileState* state_;
  float* values_;
};

}  // namespace transnext::device
