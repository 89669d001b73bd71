// aggregated_attention backward, the tokens' side: a block's tile of tokens, and its contents in shared
// memory.
//
// A block owns a rectangle of tokens of one (image, head), as queries and as keys. Queries within a
// window's reach of the rectangle see its keys, so the block computes their weights too, and no gradient
// has two writers.
#pragma once

#include "cuda/kernels/attention/backward/block.cuh"

namespace transnext::device {

// `top` and `left` are those of the owned tokens.
struct BackwardTileState : BackwardState {
  Rectangle owned, queries, keys;
};

template <class T, int kDim>
struct BackwardTile {
  using Element = T;
  using Rows = SharedRows<T, kDim, false>;
  static constexpr int kChannels = kDim;
  static constexpr int kChunks = kDim / 8;
  static constexpr bool kAtOnce = attention_tiles_at_once(kDim);
  static constexpr bool kOwnsPooled = false;
  using PooledWeights = NoPooledWeights;

  const AggregatedAttentionBackwardParams& p;
  const AttentionBackwardPlan& plan;
  float* workspace;
  unsigned char* memory;

  __device__ explicit BackwardTile(const AggregatedAttentionBackwardLaunch& launch)
      : p(launch.params),
        plan(launch.plan),
        workspace(launch.workspace),
        memory(dynamic_shared<unsigned char>()) {}

  __device__ const TileLayout& at() const { return plan.tile; }
  template <class Part>
  __device__ Part* part(int offset) const {
    return reinterpret_cast<Part*>(memory + offset);
  }
  __device__ BackwardTileState& state() const { return *part<BackwardTileState>(at().state); }
  __device__ Rows queries() const { return {memory + at().queries}; }
  __device__ Rows d_outs() const { return {memory + at().d_outs}; }
  __device__ Rows keys() const { return {memory + at().keys}; }
  __device__ Rows values() const { return {memory + at().values}; }
  __device__ Rows pool_keys() const { return {memory + at().pool_keys}; }
  __device__ Rows pool_values() const { return {memory + at().pool_values}; }
  __device__ KeyTerms* pool_terms() const { return part<KeyTerms>(at().pool_terms); }
  __device__ float* own_biases() const { return part<float>(at().own_biases); }
  __device__ int* order() const { return part<int>(at().order); }
  __device__ BackwardQuery* query_terms() const { return part<BackwardQuery>(at().query_terms); }
  __device__ float* lengths() const { return part<float>(at().lengths); }
  __device__ float2* deltas() const { return part<float2>(at().deltas); }
  __device__ float2* key_terms() const { return part<float2>(at().key_terms); }
  __device__ float* embedding() const { return part<float>(at().embedding); }
  __device__ float2* window_terms() const { return part<float2>(at().window_terms); }
  // Of a query's cell.
  __device__ float& d_logit(int query, int cell) const {
    return part<float>(at().d_logits)[query * cells() + cell];
  }
  __device__ float& d_weight(int query, int cell) const {
    return part<float>(at().d_weights)[query * cells() + cell];
  }
  __device__ float& weight(int query, int cell) const {
    return part<float>(at().weights)[query * cells() + cell];
  }
  // Of an owned token.
  __device__ float* gradient(int own) const { return part<float>(at().gradients) + own * kDim; }
  __device__ float& d_scale(int own) const { return part<float>(at().d_scales)[own]; }
  // Of a cell.
  __device__ const float* token(int cell) const { return part<float>(at().tokens) + cell * kDim; }
  // The query embedding as the pooled keys' terms take it.
  __device__ decltype(auto) scaling_embedding() const {
    if constexpr (sizeof(T) == 2)
      return *part<EmbeddingRows<T, kDim>>(at().embedding_rows);
    else
      return embedding();
  }

  static __device__ int warp() { return thread_index() / 32; }
  static __device__ constexpr int threads() { return kAttentionTileThreads; }
  __device__ int height() const { return static_cast<int>(p.in.grid.height); }
  __device__ int width() const { return static_cast<int>(p.in.grid.width); }
  __device__ int window() const { return static_cast<int>(p.in.window_size); }
  __device__ int cells() const { return window() * window(); }
  __device__ int pooled() const { return static_cast<int>(p.in.k_pool.shape[1]); }
  __device__ TileCorner corner() const { return {state().top, state().left, height(), width()}; }
  __device__ Rectangle seen() const { return state().queries; }
  // Of its queries: how many, where they are in the image and among all of them.
  __device__ int step_queries() const { return state().queries.cells(); }
  __device__ Rectangle::Cell cell_of(int query) const { return state().queries.cell(query); }
  static __device__ int index_of(int query) { return query; }
  // Calls visit(row, column, cell) for the tokens inside the image of a window whose corner is (top, left).
  template <class Visit>
  __device__ void for_cells(int top, int left, const Visit& visit) const {
    const int end_row = min(top + window(), height());
    const int end_column = min(left + window(), width());
    for (int row = max(top, 0); row < end_row; ++row) {
#pragma unroll 1
      for (int column = max(left, 0); column < end_column; ++column)
        visit(row, column, (row - top) * window() + column - left);
    }
  }
};

}  // namespace transnext::device
