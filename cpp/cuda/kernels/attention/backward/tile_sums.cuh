// aggregated_attention backward, the tokens' side in tiles: a block's sums for the parameters' gradients.
#pragma once

#include "cuda/kernels/attention/backward/tile.cuh"
#include "cuda/kernels/common/vec8.cuh"

namespace transnext::device {

// Each warp adds some of the owned queries; the warps' sums meet in shared memory.
template <class T, int kDim>
struct TileSums {
  using Tile = BackwardTile<T, kDim>;
  static constexpr int kChunks = Tile::kChunks;
  static constexpr int kWarps = kAttentionTileThreads / 32;

  const Tile& tile;

  // Stores the sums: scale, query embedding [d], local bias [L], token bias [L], tokens [L, d].
  __device__ void store() const {
    if (tile.plan.parameters == 0) return;
    float* sums =
        tile.workspace + tile.plan.parameter_sums + index_t{blockIdx.x} * tile.plan.parameters;
    store_scalars(sums);
    if (tile.p.d_tokens.present()) store_tokens(sums + 1 + channels() + 2 * tile.cells());
  }

 private:
  __device__ int channels() const { return static_cast<int>(tile.p.in.q.shape[3]); }
  __device__ float* of_threads() const { return tile.template part<float>(tile.at().sums); }

  // All but the tokens', an element to a lane.
  __device__ void store_scalars(float* sums) const {
    const int lane = thread_index() % 32;
    const int count = tile.state().owned.cells();
    const int cells = tile.cells();
    const int size = 1 + channels() + 2 * cells;
#pragma unroll 1
    for (int first = 0; first < size; first += 32) {
      const int element = first + lane;
      const int cell = element - 1 - channels();
      float sum = 0.0f;
#pragma unroll 1
      for (int own = tile.warp(); own < count; own += kWarps) {
        if (element >= size) break;
        if (cell >= cells)
          sum += tile.d_weight(tile.order()[own], cell - cells);
        else if (cell >= 0)
          sum += tile.d_logit(tile.order()[own], cell);
        else
          sum += element == 0 ? tile.d_scale(own) : tile.gradient(own)[element - 1];
      }
      __syncthreads();
      of_threads()[thread_index()] = sum;
      __syncthreads();
      if (tile.warp() > 0 || element >= size) continue;
#pragma unroll
      for (int other = 1; other < kWarps; ++other) sum += of_threads()[other * 32 + lane];
      sums[element] = sum;
    }
  }

  // A lane computes eight channels of one cell's tokens.
  __device__ void store_tokens(float* sums) const {
    const int lane = thread_index() % 32;
    const int count = tile.state().owned.cells();
    const int items = tile.cells() * kChunks;
#pragma unroll 1
    for (int first = 0; first < items; first += 32) {
      const int item = min(first + lane, items - 1);
      const int cell = item / kChunks;
      const int chunk = item - cell * kChunks;
      float sum[8] = {};
#pragma unroll 1
      for (int own = tile.warp(); own < count; own += kWarps) {
        if (first + lane >= items) break;
        const int query = tile.order()[own];
        const float d_weight = tile.d_weight(query, cell) * tile.query_terms()[query].norm;
        float q[8];
        load_vec8(tile.queries().vector(query, 0)->values + chunk * 8, q);
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[c] += d_weight * q[c];
      }
      __syncthreads();
      store_vec8(sum, of_threads() + thread_index() * 8);
      __syncthreads();
      const int thread = thread_index();
      const int its_item = first + thread / 8;
      const int c = its_item % kChunks * 8 + thread % 8;
      if (its_item >= items || c >= channels()) continue;
      float total = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) total += of_threads()[warp * 256 + thread];
      sums[its_item / kChunks * channels() + c] = total;
    }
  }
};

}  // namespace transnext::device
