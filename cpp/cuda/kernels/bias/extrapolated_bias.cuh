// The table for extrapolation has one entry per distance: its maps grow by one from row to row and
// from column to column of the image, so
//
//   bias(i, j, a, b) = table[row_map[0, a] + i, col_map[0, b] + j].
#pragma once

#include "cuda/kernels/bias/pooled_bias.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext::device {

// Whether a dense bias can be indexed by the sum of a query's and a key's offset (PooledBias).
__device__ inline bool has_dense_offsets(const AggregatedAttentionInputs& in) {
  return in.pool_bias.dense() && in.grid.size() * in.pool_bias.values.stride[1] < index_t{1} << 31;
}

// Whether a table is of this kind for the queries of a rectangle. All threads of the block call
// this together.
__device__ inline bool grows_by_steps(const PooledBias& bias, const AggregatedAttentionInputs& in,
                                      const Rectangle& queries) {
  if (!in.pool_bias.table()) return false;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  bool steps = bias.taps() == 1 && !in.pool_bias.col_weights.present();
  // One lane per pooled row or column, four entries at a time, so that their loads overlap.
#pragma unroll 1
  for (int a = lane; a < static_cast<int>(in.pool_grid.height); a += 32) {
    const int first = bias.table_row(0, a);
#pragma unroll 4
    for (int i = queries.top + warp; i < queries.top + queries.height; i += warps)
      steps &= bias.table_row(i, a) == first + i;
  }
#pragma unroll 1
  for (int b = lane; b < static_cast<int>(in.pool_grid.width); b += 32) {
    const int first = bias.table_column(0, b, 0);
#pragma unroll 4
    for (int j = queries.left + warp; j < queries.left + queries.width; j += warps)
      steps &= bias.table_column(j, b, 0) == first + j;
  }
  return __syncthreads_and(steps) != 0;
}

}  // namespace transnext::device
