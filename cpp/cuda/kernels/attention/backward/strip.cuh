// aggregated_attention backward, 16-bit types with a window of 3 x 3: what a block works on, and its
// contents in shared memory.
//
// A block walks down a strip of an (image, head): kStripColumns columns of queries, of which it owns all
// but the outer two, a step of as many rows as it has warps at a time. A warp has a patch of 2 x 8
// queries (cuda/kernels/attention/window_columns.cuh). Behind the step's rows lie those of the two
// last rows of the step before, of queries and of keys, so that no row is computed twice:
//
//   row r of queries is image row top + r - 2, row r of keys is top + r - 1, top the step's first;
//   column c of queries is image column left + c, column c of keys is left + c - 1.
//
// Outside the image rows are zero, and queries have no weights and a length scale of zero.
#pragma once

#include "cuda/kernels/attention/backward/block.cuh"
#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/attention/window_products.cuh"

namespace transnext::device {

// `top` is the step's first row of queries, `left` their first column. What changes from step to step is
// here too: it is needed seldom, and occupies no registers.
struct StripState : BackwardState {
  int first_top;             // of the first step
  int parity;                // of the step's number
  int owned_top, owned_end;  // rows
  float weight_unit;         // a power of two that makes numbers of T of window weights
  float
      largest_d_out[2];  // length of an output gradient in this step and the one before, by parity
};

// The tensors' rows, found once.
template <class T>
struct StripTensors {
  HeadRows<T> queries[2];  // q, d_out
  HeadRows<T> keys[2];     // k, v
  HeadRows<T> d_q, d_k, d_v;
  float4* query_terms;  // of this image and head, for the pooled side
};

template <class Parts>
struct StripPooledWeights;
template <class Parts, bool kOwnsPooled>
struct PooledWeightsOf {
  using Type = StripPooledWeights<Parts>;
};
template <class Parts>
struct PooledWeightsOf<Parts, false> {
  using Type = NoPooledWeights;
};

// kPooled: it owns the gradients of the pooled keys too (strip_pooled.cuh).
template <class T, int kDim, bool kPooled>
struct Strip {
  using Element = T;
  using Rows = SharedRows<T, kDim, false>;
  static constexpr int kChannels = kDim;
  static constexpr bool kAtOnce = true;  // has code of its own for all pooled keys at once
  static constexpr int kChunks = kDim / 8;
  static constexpr int kWindow = WindowColumns::kWindow;
  static constexpr int kCells = kWindow * kWindow;
  static constexpr bool kOwnsPooled = kPooled;
  using PooledWeights = typename PooledWeightsOf<Strip, kPooled>::Type;
  // From d_l_m to a_m, in words.
  static constexpr int kPooledWeights = kStripMostRows * kStripColumns * kStripWeightBytes / 4;

  const AggregatedAttentionBackwardParams& p;
  const AttentionBackwardPlan& plan;
  float* workspace;
  unsigned char* memory;

  __device__ explicit Strip(const AggregatedAttentionBackwardLaunch& launch)
      : p(launch.params),
        plan(launch.plan),
        workspace(launch.workspace),
        memory(dynamic_shared<unsigned char>()) {}

  __device__ const StripLayout& at() const { return plan.strip; }
  template <class Part>
  __device__ Part* part(int offset) const {
    return reinterpret_cast<Part*>(memory + offset);
  }
  __device__ StripState& state() const { return *part<StripState>(at().state); }
  __device__ StripTensors<T>& tensors() const { return *part<StripTensors<T>>(at().tensors); }
  __device__ Rows queries() const { return {memory + at().queries}; }
  __device__ Rows d_outs() const { return {memory + at().d_outs}; }
  __device__ Rows keys() const { return {memory + at().keys}; }
  __device__ Rows values() const { return {memory + at().values}; }
  __device__ float* lengths() const { return part<float>(at().lengths); }
  __device__ float* d_logits() const { return part<float>(at().d_logits); }
  __device__ T* weights() const { return part<T>(at().weights); }
  __device__ BackwardQuery* query_terms() const { return part<BackwardQuery>(at().query_terms); }
  __device__ StripKey* key_terms() const { return part<StripKey>(at().key_terms); }
  __device__ unsigned* slots() const { return part<unsigned>(at().slots); }
  __device__ float* embedding() const { return part<float>(at().embedding); }
  __device__ EmbeddingRows<T, kDim>& scaling_embedding() const {
    return *part<EmbeddingRows<T, kDim>>(at().embedding_rows);
  }
  __device__ Rows pool_keys() const { return {memory + at().pool_keys}; }
  __device__ Rows pool_values() const { return {memory + at().pool_values}; }
  __device__ KeyTerms* pool_terms() const { return part<KeyTerms>(at().pool_terms); }
  __device__ WindowTokens<T, kDim> tokens() const { return {{memory + at().tokens}}; }
  __device__ unsigned* pooled_weights(int query) const {
    return part<unsigned>(at().pooled_weights) + query * (kStripWeightBytes / 4);
  }
  __device__ Vector16<T>* ones() const { return part<Vector16<T>>(at().ones); }
  __device__ float4* pooled_sums(int tile) const {
    return part<float4>(at().pooled_sums) + tile * kChunks * 32;
  }
  __device__ float2* pooled_embedded(int tile) const {
    return part<float2>(at().pooled_embedded) + tile * 4;
  }
  // The gradient of the table.
  __device__ float* table() const {
    const View<3>& view = p.d_pool_bias;
    return static_cast<float*>(view.data) + state().head * view.shape[1] * view.shape[2];
  }
  __device__ const float4* biases() const { return part<float4>(at().window_terms); }
  __device__ const float4* token_biases() const { return biases() + 4; }

  static __device__ int lane() { return thread_index() % 32; }
  static __device__ int warp() { return thread_index() / 32; }
  // Warps, and rows of queries of a step.
  __device__ int rows() const { return plan.strip_rows; }
  __device__ int threads() const { return rows() * 32; }
  __device__ int height() const { return static_cast<int>(p.in.grid.height); }
  __device__ int width() const { return static_cast<int>(p.in.grid.width); }
  __device__ int pooled() const { return static_cast<int>(p.in.k_pool.shape[1]); }
  __device__ int top() const { return state().top; }
  __device__ bool is_first() const { return state().top == state().first_top; }
  __device__ TileCorner corner() const { return {top(), state().left, height(), width()}; }
  __device__ bool owns_row(int row) const {
    return row >= state().owned_top && row < state().owned_end;
  }
  // The step's rows that it owns.
  __device__ int first_owned_row() const { return max(state().owned_top - top(), 0); }
  __device__ int end_owned_row() const { return min(state().owned_end - top(), rows()); }
  // Of a column of queries.
  static __device__ bool owns_column(int column) {
    return column > 0 && column < kStripColumns - 1;
  }
  // One of the step's.
  __device__ bool owns(int query) const {
    return owns_column(query % kStripColumns) && owns_row(top() + query / kStripColumns) &&
           state().left + query % kStripColumns < width();
  }
  // Of the step's queries: how many, where they are in the image and among all of them, their own
  // biases, which lie where the gradients of their window's logits will; and all that it sees.
  __device__ int step_queries() const { return rows() * kStripColumns; }
  __device__ Rectangle::Cell cell_of(int query) const {
    return {top() + query / kStripColumns, state().left + query % kStripColumns};
  }
  __device__ int index_of(int query) const { return query + 2 * kStripColumns; }
  __device__ float* own_biases() const {
    static_assert(kOwnBiasStride == kCells, "they take the place of a window's");
    return d_logits();
  }
  __device__ Rectangle seen() const {
    const int left = max(state().left, 0);
    return {state().first_top, left, min(state().owned_end + 1, height()) - state().first_top,
            min(state().left + kStripColumns, width()) - left};
  }
  // What makes numbers of T of the gradients of this step and the two rows before.
  __device__ float unit() const {
    return fmaxf(state().largest_d_out[0], state().largest_d_out[1]);
  }
};

// A warp's patch in a step, and its lane's queries.
struct StripPatch {
  int top, column;  // of the first query

  __device__ StripPatch() : top(thread_index() / 64 * 2), column(thread_index() / 32 % 2 * 8) {}

  // In the lane's half of the patch, among the step's queries and among all of them.
  __device__ int query(int half) const {
    return (top + half) * kStripColumns + column + thread_index() % 32 / 4;
  }
  __device__ int index(int half) const { return query(half) + 2 * kStripColumns; }
  // Query i of the 16, among all of them.
  __device__ int row(int i) const { return (top + 2 + i / 8) * kStripColumns + column + i % 8; }
  __device__ bool inside(const TileCorner& corner) const {
    return corner.top + top < corner.height && corner.left + column < corner.width;
  }
};

}  // namespace transnext::device
