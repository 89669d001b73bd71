// aggregated_attention backward, the pooled keys' side where the tokens' side does not compute it
// (strip_pooled.cuh). Runs after the tokens' side, which leaves the queries' terms in the workspace:
//
//   d_kpn(m) = sum_n d_l_m(n) qh(n),   d_vp(m) = sum_n a_m(n) d_out(n)
//   d_table  = sum over images, n, m of d_l_m(n) weights, where atomic additions may make it
//
// A block owns 64 pooled keys of one (image, head) and a slice of the queries, which it streams
// through shared memory; a warp owns 16 of the keys. Each slice leaves partial sums in the
// workspace, and aggregated_attention_backward_pooled_sums adds them in slice order.
//
// Rows lie in shared memory in their storage type, and qh(n) = scaling (q(n) / |q(n)| + embedding)
// is split: d_l_m(n) scaling / |q(n)| multiplies q(n), rounded on tensor cores to TF32, which has
// the range of float whatever the gradients are; the embedding's term is one sum per key.
//
// Per query, head and 64 keys: bytes 2 d sizeof(T) + 16 read, flops 8 d 64.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/row_products.cuh"
#include "cuda/kernels/attention/window_parameters.cuh"
#include "cuda/kernels/bias/extrapolated_bias.cuh"
#include "cuda/kernels/bias/pooled_bias.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext {

namespace device {

template <class T, int kDim>
class BackwardPooled {
  using Launch = AggregatedAttentionBackwardLaunch;

 public:
  __device__ explicit BackwardPooled(const Launch& launch)
      : launch_(launch),
        p_(launch.params),
        in_(launch.params.in),
        left_(key_rows(), [](int i) { return warp() * 16 + i; }),
        right_(query_rows(), 0),
        rows_(query_rows(), 0) {
    if (thread() == 0) {
      const unsigned slices = static_cast<unsigned>(launch.plan.slices);
      const unsigned key_tiles = static_cast<unsigned>((pooled() + kKeys - 1) / kKeys);
      State& state = BackwardPooled::state();
      state.head = static_cast<int>(blockIdx.x % heads());
      state.slice = static_cast<int>(blockIdx.x / heads() % slices);
      state.batch = static_cast<int>(blockIdx.x / heads() / slices / key_tiles);
      state.vectors = launch.plan.vectors;
      state.first_key = static_cast<int>(blockIdx.x / heads() / slices % key_tiles) * kKeys;
      state.first_query = state.slice * launch.plan.slice;
      state.end_query = tokens() - state.first_query < launch.plan.slice
                            ? tokens()
                            : state.first_query + launch.plan.slice;
    }
    __syncthreads();
  }

  __device__ void run() {
    load_keys();
    const int first_query = state().first_query;
    const int end_query = state().end_query;
    const int top = first_query / width();
    const bool steps =
        grows_by_steps(bias(), in_, {top, 0, (end_query - 1) / width() + 1 - top, width()});
    if (thread() == 0) {
      state().steps = steps;
      state().bias_by_offset = steps || has_dense_offsets(in_);
    }
    __syncthreads();
    find_keys();
    const int own = warp() * 16;
    int buffer = 0;
    if (kBuffers > 1) stage(first_query, 0);
#pragma unroll 1
    for (int first = first_query; first < end_query; first += kTile) {
      if (kBuffers == 1) {
        __syncthreads();  // every warp has left the previous tile
        stage(first, 0);
      }
      wait_copies<0>();
      __syncthreads();
      if (kBuffers > 1 && first + kTile < end_query) stage(first + kTile, buffer ^ 1);
      if (own < key_count()) {  // a warp without keys stores nothing
        const int count = end_query - first < kTile ? end_query - first : kTile;
#pragma unroll 1
        for (int sub = 0; sub < count; sub += 16)
          add_queries(first, count, buffer * kTile + sub, sub);
      }
      if (kBuffers > 1) buffer ^= 1;
    }
    store();
  }

 private:
  // What the block works on, in shared memory: it is read where it is needed, so it occupies no
  // registers during the GEMMs.
  struct State : TileState {
    int slice, first_key, first_query, end_query;
    bool steps;           // the table grows by steps
    bool bias_by_offset;  // a bias lies at the sum of its query's and its key's offset
  };
  static __device__ State& state() {
    __shared__ State state;
    return state;
  }

  using Rows = SharedRows<T, kDim, false>;
  using Products = RowProducts<T, kDim>;
  static constexpr int kChunks = kDim / 8;
  static constexpr int kKeys = kAttentionPoolTile;
  static constexpr int kTile = attention_pooled_queries(kDim, sizeof(T));
  static constexpr int kBuffers = attention_pooled_buffers(kDim, sizeof(T));
  static constexpr int kThreads = kAttentionPooledThreads;
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ int lane_row() { return static_cast<int>(threadIdx.x % 32 / 4); }
  static __device__ int lane_column() { return static_cast<int>(threadIdx.x % 4); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
  __device__ int pooled() const { return static_cast<int>(in_.k_pool.shape[1]); }
  __device__ int width() const { return static_cast<int>(in_.grid.width); }
  __device__ int pool_width() const { return static_cast<int>(in_.pool_grid.width); }
  __device__ int tokens() const { return static_cast<int>(in_.grid.size()); }
  __device__ unsigned heads() const { return static_cast<unsigned>(in_.q.shape[2]); }
  __device__ int key_count() const {
    const int rest = pooled() - state().first_key;
    return rest < kKeys ? rest : kKeys;
  }
  // Not a member: it would cost registers.
  __device__ PooledBias bias() const { return {in_.pool_bias, state().head}; }
  __device__ int columns() const { return static_cast<int>(p_.d_pool_bias.shape[2]); }

  // In shared memory.
  static __device__ Rows key_rows() { return {dynamic_shared<unsigned char>()}; }  // [kKeys]
  static __device__ Rows value_rows() { return after(key_rows(), kKeys); }
  static __device__ Rows query_rows() { return after(value_rows(), kKeys); }  // [kBuffers][kTile]
  static __device__ Rows d_out_rows() { return after(query_rows(), kBuffers * kTile); }
  static __device__ Rows after(const Rows& rows, int count) {
    return {rows.begin + count * Rows::kRowBytes};
  }
  // [kBuffers][kTile], as in the workspace
  static __device__ float4* terms() {
    return reinterpret_cast<float4*>(after(d_out_rows(), kBuffers * kTile).begin);
  }
  // [kBuffers][kTile]: offset into the bias, offset into its gradient, image row, image column
  static __device__ int4* positions() {
    return reinterpret_cast<int4*>(terms() + kBuffers * kTile);
  }

  __device__ void load_keys() {
    __shared__ float key_inverse[kKeys], key_embedding[kKeys];
    alignas(16) __shared__ float embedding[kDim];
    load_chunk(kThreads, HeadRows<T>(in_.k_pool, state()), HeadRows<T>(in_.v_pool, state()),
               state().first_key, kKeys, pooled(), key_rows(), value_rows());
    commit_copies();
    wait_copies<0>();
    const WindowParameters parameters(in_, state().head);
#pragma unroll 1
    for (int c = thread(); c < kDim; c += kThreads) embedding[c] = parameters.embedding_of(c);
    __syncthreads();
    if (warp() == 0) round_embedding<T>(embedding, kDim);
    __syncthreads();
#pragma unroll 1
    for (int i = thread(); i < kKeys; i += kThreads) {
      key_inverse[i] = key_rows().inverse_norm(i);
      key_embedding[i] = key_rows().dot(i, embedding) * key_inverse[i];
    }
    __syncthreads();
    for (int h = 0; h < 2; ++h) {
      const int i = warp() * 16 + 8 * h + lane_row();
      inverse_[h] = key_inverse[i];
      embedded_[h] = key_embedding[i];
    }
  }

  // Offsets of the lane's two keys.
  __device__ void find_keys() {
    for (int h = 0; h < 2; ++h) {
      const int m = present(h);
      const int a = m / pool_width();
      const int b = m - a * pool_width();
      const int last_row = (state().end_query - 1) / width();
      const int last_column = width() - 1;
      if (state().steps)
        table_offsets_[h] = bias().first_table_row(0, a, last_row) * columns() +
                            bias().first_table_column(0, b, last_column);
      if (state().bias_by_offset)
        biases_[h] = bias().values() + bias().key_offset(a, b, m, last_row, last_column);
    }
  }
  __device__ int key(int h) const { return state().first_key + warp() * 16 + 8 * h + lane_row(); }
  __device__ int present(int h) const { return key(h) < pooled() ? key(h) : state().first_key; }

  // Starts to copy the rows and the terms of the queries from `first` on.
  __device__ void stage(int first, int buffer) {
    const int end = state().end_query;
    const int begin = buffer * kTile;
    load_chunk(kThreads, HeadRows<T>(in_.q, state()), HeadRows<T>(p_.d_out, state()), first, kTile,
               end, after(query_rows(), begin), after(d_out_rows(), begin));
    const float4* from =
        reinterpret_cast<const float4*>(launch_.workspace + launch_.plan.query_terms) +
        (index_t{state().batch} * heads() + state().head) * tokens();
#pragma unroll 1
    for (int i = thread(); i < kTile; i += kThreads) {
      const bool there = first + i < end;
      const int n = there ? first + i : first;
      const int y = n / width();
      const int x = n - y * width();
      if (there)
        copy_async_16(terms() + begin + i, from + n, true);
      else  // rows that do not exist have no weights
        terms()[begin + i] = float4{0.0f, 0.0f, -3e38f, 0.0f};
      positions()[begin + i] =
          int4{state().bias_by_offset ? bias().query_offset(y, x, n) : 0, y * columns() + x, y, x};
    }
    commit_copies();
  }

  // Accumulates 16 queries: of a tile of `count`, those from `sub` on, which lie at `at` in shared
  // memory.
  __device__ void add_queries(int first, int count, int at, int sub) {
    const float4* of_lane = terms() + at + lane_column();  // of its first query
    // Loaded before the GEMMs, which hide the latency.
    float biases[2][4];
    if (state().bias_by_offset) {
      const int4* position = positions() + at + lane_column();
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) biases[t][e] = biases_[e / 2][position[t * 8 + e % 2 * 4].x];
      }
    }
    float weight[2][4] = {}, d_logit[2][4] = {};
    constexpr int kToDOuts = kBuffers * kTile;
    typename Products::Right right = right_;
    right.move(at);
    Products(left_).multiply(right, weight);
    right.move(kToDOuts);
    Products(left_, kKeys).multiply(right, d_logit);
    if (!state().bias_by_offset) find_biases(first, count, at, sub, biases);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int h = e / 2;
        const float4 of_query = of_lane[t * 8 + e % 2 * 4];
        const float logit =
            weight[t][e] * inverse_[h] * of_query.x + (of_query.y * embedded_[h] + biases[t][e]);
        weight[t][e] = exp2_fast(logit * kLog2E + of_query.z);
        const float gradient = weight[t][e] * (d_logit[t][e] - of_query.w);
        along_[h] += gradient * of_query.y;
        d_logit[t][e] = gradient * of_query.x;
        biases[t][e] = gradient;
      }
    }
    if (launch_.plan.table_atomics) add_to_table(count, at, sub, biases);
    WeightedRows<T, kDim> rows = rows_;
    rows.move(at);
    rows.add_wide(0, d_logit[0], d_logit[1], d_key_);
    rows.move(kToDOuts);
    rows.add(0, weight[0], weight[1], d_value_);
  }

  // Biases of any kind, one after the other: this path need not be fast.
  __device__ void find_biases(int first, int count, int at, int sub, float (&biases)[2][4]) const {
#pragma unroll 1
    for (int j = 0; j < 8; ++j) {
      const int i = j / 4 * 8 + lane_column() + j % 2 * 4;
      const int4 position = positions()[at + i];
      const int n = sub + i < count ? first + sub + i : first;
      const int m = present(j / 2 % 2);
      const float value =
          bias().at(position.z, position.w, n, m / pool_width(), m % pool_width(), m);
#pragma unroll
      for (int own = 0; own < 8; ++own)
        biases[own / 4][own % 4] = own == j ? value : biases[own / 4][own % 4];
    }
  }

  __device__ void add_to_table(int count, int at, int sub, const float (&gradients)[2][4]) const {
    float* table = static_cast<float*>(p_.d_pool_bias.data) +
                   state().head * p_.d_pool_bias.shape[1] * p_.d_pool_bias.shape[2];
    if (state().steps) {
      // A query beyond the last adds zero, to the entry of one that exists.
      const int4* position = positions() + at + lane_column();
      const int of_query[4] = {position[0].y, position[4].y, position[8].y, position[12].y};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* of_key = table + table_offsets_[h];
        if (key(h) >= pooled()) continue;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 2; ++e)
            atomicAdd(of_key + of_query[2 * t + e], gradients[t][2 * h + e]);
        }
      }
      return;
    }
#pragma unroll 1
    for (int j = 0; j < 8; ++j) {
      const int i = j / 4 * 8 + lane_column() + j % 2 * 4;
      const int m = key(j / 2 % 2);
      if (sub + i >= count || m >= pooled()) continue;
      float gradient = 0.0f;
#pragma unroll
      for (int own = 0; own < 8; ++own)
        gradient = own == j ? gradients[own / 4][own % 4] : gradient;
      const int4 position = positions()[at + i];
      bias().add_to(table, position.z, position.w, m / pool_width(), m % pool_width(), gradient);
    }
  }

  __device__ void store() const {
    const int channels = static_cast<int>(in_.q.shape[3]);
    float* sums = launch_.workspace +
                  launch_.plan.pooled_sums_of(in_, state().slice, state().batch, state().head);
    const float along[2] = {sum_of_four(along_[0]), sum_of_four(along_[1])};
#pragma unroll
    for (int t = 0; t < kChunks; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int c = t * 8 + lane_column() * 2 + i;
        if (c >= channels) continue;
        const float embedding = WindowParameters(in_, state().head).embedding_of(c);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (key(h) >= pooled()) continue;
          float* to = sums + index_t{key(h)} * 2 * channels + c;
          to[0] = d_key_[t][2 * h + i] + along[h] * embedding;
          to[channels] = d_value_[t][2 * h + i];
        }
      }
    }
  }

  const Launch& launch_;
  const AggregatedAttentionBackwardParams& p_;
  const AggregatedAttentionInputs& in_;
  const typename Products::Left left_;    // the warp's keys
  const typename Products::Right right_;  // the queries
  const WeightedRows<T, kDim> rows_;      // the same as rows that are weighted
  // Of the lane's two keys:
  float inverse_[2], embedded_[2], along_[2] = {};
  const float* biases_[2] = {};
  int table_offsets_[2] = {};
  float d_key_[kChunks][4] = {}, d_value_[kChunks][4] = {};
};

}  // namespace device

// Block (kAttentionPooledThreads). Grid: (head, slice, key tile, image), heads fastest.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionPooledThreads, kDim <= 32 ? 4 : 1)
    aggregated_attention_backward_pooled(AggregatedAttentionBackwardLaunch launch) {
  device::BackwardPooled<T, kDim>(launch).run();
}

}  // namespace transnext
