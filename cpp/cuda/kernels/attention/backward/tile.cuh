// aggregated_attention backward, the tokens' side: a block's rectangle of tokens, and its contents
// in shared memory. A block owns a rectangle of tokens of one (image, head), as queries and as
// keys. Queries within a window's reach of the rectangle see its keys, so the block computes their
// weights too, and no gradient has two writers. Rows lie in shared memory in their storage type.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/token_rows.cuh"
#include "cuda/kernels/bias/extrapolated_bias.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext::device {

template <class T, int kDim>
class TokenTile {
 public:
  using Launch = AggregatedAttentionBackwardLaunch;

  // What the block works on, in shared memory: it is read where it is needed, so it occupies no
  // registers during the GEMMs.
  struct State {
    Rectangle owned, queries, keys;
    unsigned batch, head;
    float scale;
    bool bias_by_offset;  // a bias lies at the sum of its query's and its key's offset
  };

  __device__ TokenTile(const Launch& launch, unsigned block)
      : p_(launch.params),
        in_(launch.params.in),
        plan_(launch.plan),
        workspace_(launch.workspace),
        memory_(dynamic_shared<unsigned char>()) {
    static_assert(sizeof(State) <= kAttentionStateBytes, "the plan's room for it");
    if (thread() == 0) {
      State& state = this->state();
      const unsigned tiles =
          static_cast<unsigned>(plan_.tiles_y) * static_cast<unsigned>(plan_.tiles_x);
      state.head = block % heads();
      state.batch = block / heads() / tiles;
      state.scale = static_cast<const float*>(in_.scale.data)[state.head * in_.scale.stride[0]];
      const int tile = static_cast<int>(block / heads() % tiles);
      const int top = tile / plan_.tiles_x * plan_.tile_height;
      const int left = tile % plan_.tiles_x * plan_.tile_width;
      state.owned = {top, left, smaller(plan_.tile_height, height() - top),
                     smaller(plan_.tile_width, width() - left)};
      const int before = window() / 2;
      const int after = window() > 0 ? window() - 1 - before : 0;
      // The queries that see a key lie in the flipped window.
      state.queries = state.owned.grown(after, before, height(), width());
      state.keys = state.queries.grown(before, after, height(), width());
    }
    __syncthreads();
  }

  static constexpr int kStride = row_stride<T>(kDim);
  static constexpr int kChunks = kDim / 8;
  static constexpr int kLaneChunks = (kChunks + 3) / 4;  // per lane, four lanes to a token
  static constexpr int kWarps = kAttentionTokenThreads / 32;
  // Whether the pooled keys' part of d_scale is accumulated over the keys, or derived from their
  // sum in d_q, which tensor cores round.
  static constexpr bool kSumsAlong = OnTensorCores<T>::value;

  __device__ State& state() const {
    return *reinterpret_cast<State*>(memory_ + plan_.shared.state);
  }
  __device__ Rectangle owned() const { return state().owned; }
  __device__ Rectangle queries() const { return state().queries; }
  __device__ Rectangle halo_keys() const { return state().keys; }
  __device__ unsigned batch() const { return state().batch; }
  __device__ unsigned head() const { return state().head; }
  __device__ float scale() const { return state().scale; }
  __device__ bool bias_by_offset() const { return state().bias_by_offset; }
  __device__ unsigned heads() const { return static_cast<unsigned>(in_.q.shape[2]); }
  __device__ PooledBias bias() const { return {in_.pool_bias, head()}; }

  // Not members: kernel parameters and thread indices cost no registers.
  __device__ int channels() const { return static_cast<int>(in_.q.shape[3]); }
  __device__ int height() const { return static_cast<int>(in_.grid.height); }
  __device__ int width() const { return static_cast<int>(in_.grid.width); }
  __device__ int window() const { return static_cast<int>(in_.window_size); }
  __device__ int cells() const { return window() * window(); }
  __device__ int pooled() const { return static_cast<int>(in_.k_pool.shape[1]); }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  static __device__ int smaller(int a, int b) { return a < b ? a : b; }
  __device__ float* floats(int offset) const { return reinterpret_cast<float*>(memory_ + offset); }
  __device__ int* ints(int offset) const { return reinterpret_cast<int*>(memory_ + offset); }
  __device__ T* rows(int offset) const { return reinterpret_cast<T*>(memory_ + offset); }
  __device__ const T* row(int offset, int index) const { return rows(offset) + index * kStride; }
  __device__ int token(int y, int x) const { return y * width() + x; }
  __device__ bool inside(int y, int x) const {
    return y >= 0 && y < height() && x >= 0 && x < width();
  }

  __device__ int owned_query(int own) const { return ints(plan_.shared.order)[own]; }

  __device__ void load() {
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    const auto query_token = [=](int i) -> index_t {
      const Rectangle::Cell cell = queries.cell(i);
      return token(cell.row, cell.column);
    };
    const auto key_token = [=](int i) -> index_t {
      const Rectangle::Cell cell = keys.cell(i);
      return token(cell.row, cell.column);
    };
    const AttentionTokenShared& at = plan_.shared;
    stage_rows<kDim>(TokenRows<T>(in_.q, batch(), head()), TokenRows<T>(p_.d_out, batch(), head()),
                     queries.cells(), query_token, rows(at.query), rows(at.d_out));
    if (window() > 0) {
      stage_rows<kDim>(TokenRows<T>(in_.k, batch(), head()), TokenRows<T>(in_.v, batch(), head()),
                       keys.cells(), key_token, rows(at.key), rows(at.value));
    }
    commit_copies();
    const bool known = grows_by_steps(bias(), in_, queries) || has_dense_offsets(in_);
    if (thread() == 0) state().bias_by_offset = known;
    const float* log_sum_exp = static_cast<const float*>(p_.log_sum_exp.data) +
                               batch() * p_.log_sum_exp.stride[0] +
                               head() * p_.log_sum_exp.stride[2];
#pragma unroll 1
    for (int i = thread(); i < queries.cells(); i += kAttentionTokenThreads) {
      const Rectangle::Cell cell = queries.cell(i);
      const int y = cell.row;
      const int x = cell.column;
      floats(at.offset)[i] = log_sum_exp[token(y, x) * p_.log_sum_exp.stride[1]] * -kLog2E;
      floats(at.length_scale)[i] = length_scale(y, x, window(), in_.grid, pooled());
      if (known) ints(at.bias_offset)[i] = bias().query_offset(y, x, token(y, x));
    }
    order_queries();
#pragma unroll 1
    for (int c = thread(); c < kDim; c += kAttentionTokenThreads)
      floats(at.embedding)[c] = head_parameter(in_.query_embedding, head(), c);
#pragma unroll 1
    for (int j = thread(); j < cells(); j += kAttentionTokenThreads) {
      floats(at.local_bias)[j] = head_parameter(in_.local_bias, head(), j);
      floats(at.token_bias)[j] = head_parameter(in_.token_bias, head(), j);
    }
#pragma unroll 1
    for (int i = thread(); i < cells() * kDim; i += kAttentionTokenThreads) {
      const int c = i / cells();
      const int j = i % cells();
      float value = 0.0f;
      if (in_.tokens.present() && c < channels())
        value = static_cast<const float*>(
            in_.tokens.data)[head() * in_.tokens.stride[0] + c * in_.tokens.stride[1] +
                             j * in_.tokens.stride[2]];
      floats(at.tokens)[j * kDim + c] = value;
    }
    wait_copies<0>();
  }

  // Indices of the queries, the owned ones first.
  __device__ void order_queries() const {
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
    const int down = owned.top - queries.top;
    const int right = owned.left - queries.left;
#pragma unroll 1
    for (int i = thread(); i < queries.cells(); i += kAttentionTokenThreads) {
      const int y = i / queries.width - down;
      const int x = i - (y + down) * queries.width - right;
      const bool in_row = y >= 0 && y < owned.height;
      const int rows_before = smaller(y > 0 ? y : 0, owned.height);
      const int owned_before =
          rows_before * owned.width + (in_row ? smaller(x > 0 ? x : 0, owned.width) : 0);
      const bool mine = in_row && x >= 0 && x < owned.width;
      ints(plan_.shared.order)[mine ? owned_before : owned.cells() + i - owned_before] = i;
    }
  }

  __device__ void find_norms() {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int i = thread(); i < queries().cells(); i += kAttentionTokenThreads) {
      floats(at.query_inverse)[i] = inverse_length(row_norm<kDim>(row(at.query, i)));
      floats(at.d_out_norm)[i] = row_norm<kDim>(row(at.d_out, i));
    }
    if (window() > 0) find_key_norms(at.key, halo_keys().cells(), at.key_inverse, at.key_embedding);
  }

  // Inverse norms, and the dot products of the query embedding and the normalised keys.
  __device__ void find_key_norms(int keys, int count, int inverse, int embedding) {
#pragma unroll 1
    for (int i = thread(); i < count; i += kAttentionTokenThreads) {
      const float norm = inverse_length(row_norm<kDim>(row(keys, i)));
      floats(inverse)[i] = norm;
      floats(embedding)[i] = row_dot<kDim>(row(keys, i), floats(plan_.shared.embedding)) * norm;
    }
  }

  const AggregatedAttentionBackwardParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionBackwardPlan& plan_;
  float* workspace_;
  unsigned char* memory_;
};

}  // namespace transnext::device
