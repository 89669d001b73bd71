// The bias of the pooled logits in the fused attention kernels.
//
// Extrapolation's table has one entry for each distance, so that over a tile
//
//   bias(i, j, a, b) = table[first_row[a] + i - top, first_column[b] + j - left],
//
// which the kernel checks for its tile. It then keeps the rows that a chunk of pooled keys needs in a
// ring in shared memory: they are read along their columns, and the next chunk finds most of them
// there. Any other bias (dense, interpolated, maps of another kind) is read from global memory.
#pragma once

#include "device/attention_rows.cuh"
#include "transnext/aggregated_attention.h"

namespace transnext::device {

// A bias entry from global memory.
__device__ inline float bias_at(const PoolBias& bias, const Grid& grid, const Grid& pool_grid,
                                index_t head, int i, int j, int a, int b) {
  if (!bias.values.present()) return 0.0f;
  const auto* values = static_cast<const float*>(bias.values.data) + head * bias.values.stride[0];
  if (bias.dense()) {
    const index_t n = static_cast<index_t>(i) * grid.width + j;
    const index_t m = static_cast<index_t>(a) * pool_grid.width + b;
    return values[n * bias.values.stride[1] + m * bias.values.stride[2]];
  }
  const auto* rows = static_cast<const int*>(bias.row_map.data);
  const auto* columns = static_cast<const int*>(bias.col_map.data);
  const auto* weights = static_cast<const float*>(bias.col_weights.data);
  values += rows[i * bias.row_map.stride[0] + a * bias.row_map.stride[1]] * bias.values.stride[1];
  columns += j * bias.col_map.stride[0] + b * bias.col_map.stride[1];
  if (!bias.col_weights.present()) return values[columns[0] * bias.values.stride[2]];
  weights += j * bias.col_weights.stride[0] + b * bias.col_weights.stride[1];
  float sum = 0.0f;
  for (index_t t = 0; t < bias.col_map.shape[2]; ++t) {
    sum += weights[t * bias.col_weights.stride[2]] *
           values[columns[t * bias.col_map.stride[2]] * bias.values.stride[2]];
  }
  return sum;
}

// A tile's bias, with the ring where the table allows it.
template <class Tile>
class TileBias {
 public:
  // `flag`, `first_rows`, `first_columns` and `ring` are the layout's places. All threads of the
  // block call this together.
  __device__ TileBias(const AggregatedAttentionInputs& in, index_t head,
                      const TilePlace<Tile>& place, BiasRing shape, int* flag, int* first_rows,
                      int* first_columns, float* ring)
      : in_(in),
        head_(head),
        place_(place),
        shape_(shape),
        first_rows_(first_rows),
        first_columns_(first_columns),
        ring_(ring) {
    const PoolBias& bias = in.pool_bias;
    if (shape.rows == 0 || !bias.table() || bias.col_weights.present()) return;
    if (threadIdx.x == 0) *flag = 1;
    __syncthreads();
    find_first(bias.row_map.data, bias.row_map.stride, in.pool_grid.height, place.top,
               place.height - place.top, Tile::kRows, first_rows, flag);
    find_first(bias.col_map.data, bias.col_map.stride, in.pool_grid.width, place.left,
               place.width - place.left, Tile::kColumns, first_columns, flag);
    __syncthreads();
    ringed_ = *flag != 0;
    lowest_column_ = lowest(first_columns, 0, static_cast<int>(in.pool_grid.width));
    width_ = highest(first_columns, 0, static_cast<int>(in.pool_grid.width)) - lowest_column_ +
             Tile::kColumns;
    const int columns = static_cast<int>(bias.values.shape[2]) - lowest_column_;
    if (width_ > columns) width_ = columns;  // what lies beyond belongs to queries outside
    ringed_ = ringed_ && width_ <= shape.width;
  }

  // Whether the present chunk's bias is in the ring.
  __device__ bool ringed() const { return chunk_ringed_; }

  // Brings a chunk's table rows, and where each key's entries begin, into shared memory; the block
  // must have left the chunk before, and synchronise before it reads.
  __device__ void load_chunk(int first_key, int count, int2* places) {
    chunk_ringed_ = ringed_;
    if (!ringed_) return;
    const int pool_width = static_cast<int>(in_.pool_grid.width);
    const int last_key = (first_key + kChunkKeys < count ? first_key + kChunkKeys : count) - 1;
    const int a = first_key / pool_width;
    const int last_a = last_key / pool_width + 1;
    const int rows = static_cast<int>(in_.pool_bias.values.shape[1]);
    const int low = lowest(first_rows_, a, last_a);
    int high = highest(first_rows_, a, last_a) + Tile::kRows;
    if (high > rows) high = rows;
    chunk_ringed_ = high - low <= shape_.rows;
    if (!chunk_ringed_) return;
    for (int key = first_key + threadIdx.x; key <= last_key; key += Tile::kQueries) {
      places[key - first_key].x = first_rows_[key / pool_width];
      places[key - first_key].y = first_columns_[key % pool_width] - lowest_column_;
    }
    const View<3>& values = in_.pool_bias.values;
    const auto* table = static_cast<const float*>(values.data) + head_ * values.stride[0] +
                        lowest_column_ * values.stride[2];
    for (int row = low; row < high; ++row) {
      if (row >= low_ && row < high_) continue;  // here from the chunk before
      float* to = ring_ + (row & (shape_.rows - 1)) * shape_.width;
      for (int column = threadIdx.x; column < width_; column += Tile::kQueries)
        to[column] = table[row * values.stride[1] + column * values.stride[2]];
    }
    low_ = low;
    high_ = high;
  }

  // The entry of the query in the tile's row and column, from the ring.
  __device__ float from_ring(int2 place, int row, int column) const {
    return ring_[((place.x + row) & (shape_.rows - 1)) * shape_.width + place.y + column];
  }

  // The same from global memory, for a query inside the image.
  __device__ float from_global(int row, int column, int key) const {
    const int pool_width = static_cast<int>(in_.pool_grid.width);
    return bias_at(in_.pool_bias, in_.grid, in_.pool_grid, head_, place_.top + row,
                   place_.left + column, key / pool_width, key % pool_width);
  }

 private:
  // first[x] = map[begin, x], and *flag = 0 unless map[begin + i, x] = first[x] + i over the tile.
  __device__ static void find_first(const void* map, const index_t* stride, index_t size, int begin,
                                    int left, int tile, int* first, int* flag) {
    const int* from = static_cast<const int*>(map) + begin * stride[0];
    const int entries = static_cast<int>(size) * tile;
    for (int i = threadIdx.x; i < entries; i += Tile::kQueries) {
      const int x = i / tile;
      const int step = i % tile;
      if (step >= left) continue;
      const int base = from[x * stride[1]];
      if (step == 0) first[x] = base;
      if (from[step * stride[0] + x * stride[1]] != base + step) *flag = 0;
    }
  }

  __device__ static int lowest(const int* values, int begin, int end) {
    int result = values[begin];
    for (int i = begin + 1; i < end; ++i) result = values[i] < result ? values[i] : result;
    return result;
  }
  __device__ static int highest(const int* values, int begin, int end) {
    int result = values[begin];
    for (int i = begin + 1; i < end; ++i) result = values[i] > result ? values[i] : result;
    return result;
  }

  const AggregatedAttentionInputs& in_;
  index_t head_;
  const TilePlace<Tile>& place_;
  BiasRing shape_;
  const int* first_rows_;
  const int* first_columns_;
  float* ring_;
  bool ringed_ = false;
  bool chunk_ringed_ = false;
  int lowest_column_ = 0;
  int width_ = 0;
  int low_ = 0;  // rows in the ring
  int high_ = 0;
};

}  // namespace transnext::device
