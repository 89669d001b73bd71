// Aggregated attention, forward, in one pass: T in float, Half, BFloat16; float arithmetic. With
// TensorFloat32 for T tensors are float, and the operands of QK^T and PV over the pooled keys are rounded to TF32.
//
// A block computes a tile of queries of one (image, head). It loads the queries into shared memory,
// runs an online softmax over the pooled keys and values chunk by chunk (pooled.cuh,
// pooled_gemm.cuh, pooled_gemm_tf32.cuh), then over the window, whose keys and values with their
// halo overwrite the chunks (local_window.cuh, window_gemm.cuh), and stores the output through
// shared memory in whole rows. log_sum_exp is kept for the backward pass. kWindow is 3, kNoWindow
// (global attention) or kAnyWindow.
//
// Per query and head, d channels, L cells, P pooled keys: 4 d P operations of pooled QK^T and PV, 6
// d L for window and tokens, both on tensor cores for 16-bit T, about 10 d to normalise; L + P
// exponentials. Bytes: q, k, v and out once, 4 d sizeof(T); the halo of k and v (33 % of a wide
// tile), all pooled rows and the tile's part of the bias once more per tile, from the second-level
// cache; log_sum_exp 4.
#pragma once

#include "cuda/kernels/attention/forward/launch.h"
#include "cuda/kernels/attention/forward/local_window.cuh"
#include "cuda/kernels/attention/forward/pooled.cuh"
#include "cuda/kernels/attention/forward/pooled_gemm.cuh"
#include "cuda/kernels/attention/forward/pooled_gemm_tf32.cuh"
#include "cuda/kernels/attention/forward/window_gemm.cuh"
#include "cuda/kernels/common/multiprocessor.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext {

namespace device {

// Replaces a row of q by qn + embedding.
template <int kDim>
__device__ inline void normalise_query(const float* embedding, float (&query)[kDim]) {
  float square = 0.0f;
#pragma unroll
  for (int c = 0; c < kDim; ++c) square += query[c] * query[c];
  const float norm = inverse_norm(square);
#pragma unroll
  for (int c = 0; c < kDim; ++c) query[c] = query[c] * norm + embedding[c];
}

// The same in shared memory, vector by vector, which needs few registers.
template <int kDim>
__device__ inline void normalise_row(const SharedRows<float, kDim>& rows, int row,
                                     const float* embedding) {
  const float norm = rows.inverse_norm(row);
#pragma unroll 1
  for (int i = 0; i < kDim / 4; ++i) {
    Vector16<float> vector = *rows.vector(row, i);
#pragma unroll
    for (int e = 0; e < 4; ++e) vector.values[e] = vector.values[e] * norm + embedding[4 * i + e];
    *rows.vector(row, i) = vector;
  }
}

// One block's tile: what all phases of its work use.
template <class T, int kDim, int kWindow, class Tile>
class ForwardTile {
 public:
  using Element = Stored<T>;
  using Rows = SharedRows<Element, kDim>;

  __device__ explicit ForwardTile(const AttentionForwardLaunch& launch)
      : launch_(launch),
        in_(launch.p.in),
        at_(kDim, {sizeof(Element), OnTensorCores<T>::value}, Tile::kSize, kWindow,
            launch.p.in.pool_bias.values.present()),
        memory_(dynamic_shared<unsigned char>()),
        position_{part<TileState>(at_.state), &launch.p.in.grid},
        rows_{memory_ + at_.queries} {}

  // Finds out which tile this is, and loads its queries and the query embedding into shared memory.
  __device__ void load() const {
    TileState* state = part<TileState>(at_.state);
    if (thread_index() == 0) {
      const auto heads = static_cast<unsigned>(in_.q.shape[2]);
      const auto columns =
          static_cast<unsigned>((in_.grid.width + Tile::kColumns - 1) / Tile::kColumns);
      const auto rows = static_cast<unsigned>((in_.grid.height + Tile::kRows - 1) / Tile::kRows);
      const unsigned tile = blockIdx.x / heads;
      state->head = static_cast<int>(blockIdx.x % heads);
      state->batch = static_cast<int>(tile / columns / rows);
      state->top = static_cast<int>(tile / columns % rows) * Tile::kRows;
      state->left = static_cast<int>(tile % columns) * Tile::kColumns;
      state->bias = TileBias<Tile, T>::kind_of(in_.pool_bias, launch_.bias_in_place);
      state->vectors = launch_.vectors;
    }
    __syncthreads();
    load_queries(HeadRows<Element>(in_.q, *state), position_, rows_);
    commit_copies();
    if (thread_index() < 32) load_embedding(WindowParameters(in_, state->head));
    bias().check_maps(launch_.bias_in_place);
    if constexpr (kWindow > 0 && sizeof(Element) == 2) {
      // The last warp has the least work here.
      if (thread_index() >= Tile::kQueries - 32)
        WindowGemm<Tile, T, kDim>::measure_tokens(WindowParameters(in_, state->head), state);
    }
    wait_copies<0>();
    __syncthreads();
  }

  // float: the query's own thread computes everything.
  __device__ void attend_by_rows() const {
    float query[kDim];
    rows_.read(mine(), query);
    normalise_query(embedding(), query);
    __syncthreads();  // the pooled keys overwrite the queries
    const auto bias = this->bias();
    RowTerms& row = part<RowTerms>(at_.query_terms)[mine()];
    row = {factor(), bias.query_offset(mine()), kNoLogit, 0.0f};
    auto stream = this->stream(bias);
    float out[kDim];
#pragma unroll
    for (int c = 0; c < kDim; ++c) out[c] = 0.0f;
    accumulate_pooled(stream, bias, position_, query, row, out);
    __syncthreads();
    finish_rows(query, row, out);
  }

  // TensorFloat32: the pooled keys on tensor cores, the window by the query's own thread.
  __device__ void attend_by_tf32_gemms() const {
    Tf32GemmQueries<Tile, kDim> queries;
    auto* terms = part<RowTerms>(at_.query_terms);
    {
      float query[kDim];
      rows_.read(mine(), query);
      normalise_query(embedding(), query);
      const float factor = this->factor();
      terms[mine()] = {factor, bias().query_offset(mine()), 0.0f, 0.0f};
      queries.load(rows_, query, factor);
    }
    __syncthreads();  // the pooled keys overwrite the queries
    {
      const auto bias = this->bias();
      auto stream = this->stream(bias);
      while (stream.advance()) {
        if (position_.warp_inside(mine())) queries.add_chunk(stream, bias, terms);
      }
    }
    __syncthreads();
    terms[mine()].maximum *= -kLn2;
    queries.store_output(part<float>(at_.exchange));
    __syncwarp();
    float out[kDim];
    read_exchange(out);
    __syncthreads();
    float query[kDim];
    if constexpr (kWindow != kNoWindow) {
      // Loaded once more: they would need too many registers beside the GEMMs.
      load_queries(HeadRows<Element>(in_.q, *position_.state), position_, rows_);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      normalise_row(rows_, mine(), embedding());
      rows_.read(mine(), query);
      __syncthreads();
    }
    finish_rows(query, part<RowTerms>(at_.query_terms)[mine()], out);
  }

  // 16-bit types: the pooled keys on tensor cores, then the window by the query's own thread.
  __device__ void attend_by_pooled_gemms_and_rows() const {
    GemmQueries<Tile, T, kDim> queries;
    accumulate_pooled_gemms(queries);
    __syncthreads();
    queries.store_output(part<float>(at_.exchange));
    __syncthreads();
    float out[kDim];
    read_exchange(out);
    // The query takes their place: registers of large head dims do not suffice for both.
    auto* query = part<float>(at_.exchange) + mine() * (kDim + 4);
    const float norm = rows_.inverse_norm(mine());
#pragma unroll 1
    for (int i = 0; i < Rows::kRowVectors16; ++i) {
      constexpr int kElements = Vector16<Element>::kElements;
      const Vector16<Element> vector = *rows_.vector(mine(), i);
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const int c = i * kElements + e;
        query[c] = to_float(vector.values[e]) * norm + embedding()[c];
      }
    }
    const GemmTerms own = terms()[mine()];
    finish_any_window(SharedQuery{reinterpret_cast<const float4*>(query)}, own.factor,
                      -own.softmax.offset * kLn2, own.softmax.sum, out);
  }

  // 16-bit types without a window: the pooled keys on tensor cores.
  __device__ void attend_by_pooled_gemms() const {
    GemmQueries<Tile, T, kDim> queries;
    accumulate_pooled_gemms(queries);
    queries.finish(terms());
    __syncwarp();  // no other warp reads this warp's queries
    store_output(queries);
  }

  // 16-bit types: pooled keys and window on tensor cores.
  __device__ void attend_by_gemms() const {
    constexpr int kTiles = GemmQueries<Tile, T, kDim>::kTiles;
    GemmQueries<Tile, T, kDim> queries;
    accumulate_pooled_gemms(queries);
    RowOperand<T, kDim> operands[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) operands[t].load(rows_, queries.first_of(mine(), t));
    __syncthreads();
    const WindowGemm<Tile, T, kDim> window{
        {memory_ + at_.window_keys},
        {memory_ + at_.window_values},
        part<float2>(at_.window_norms),
        {{memory_ + at_.tokens}},
        part<float4>(at_.window_terms),
        part<float4>(at_.window_terms) + 4,
        *part<EmbeddingRows<T, kDim>>(at_.embedding_rows),
    };
    window.load(in_, position_);
    __syncthreads();
    const TileCorner corner = warp_corner(position_);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (corner.inside(corner.top + t * (16 / kWarpColumns), corner.left))
        window.accumulate(in_, position_, t, operands[t], terms(), queries);
    }
    __syncthreads();
    store_output(queries);
  }

 private:
  template <class Part>
  __device__ Part* part(int offset) const {
    return reinterpret_cast<Part*>(memory_ + offset);
  }
  __device__ static int mine() { return thread_index(); }
  __device__ int batch() const { return position_.state->batch; }
  __device__ int head() const { return position_.state->head; }
  __device__ float* embedding() const { return part<float>(at_.embedding); }
  __device__ GemmTerms* terms() const { return part<GemmTerms>(at_.query_terms); }

  __device__ TileBias<Tile, T> bias() const {
    return TileBias<Tile, T>(in_, part<TileState>(at_.state), part<float>(at_.bias));
  }
  __device__ PooledStream<Tile, T, kDim> stream(const TileBias<Tile, T>& bias) const {
    return PooledStream<Tile, T, kDim>(in_, position_.state, bias, memory_ + at_.pooled,
                                       part<KeyTerms>(at_.key_terms),
                                       part<EmbeddingRows<Element, kDim>>(at_.embedding_rows));
  }

  // Loads the query embedding, by one warp.
  __device__ void load_embedding(const WindowParameters& parameters) const {
    const auto of = [&](int c) { return parameters.embedding_of(c); };
    if constexpr (sizeof(Element) == 2) {
      part<EmbeddingRows<T, kDim>>(at_.embedding_rows)->load(of, embedding());
    } else {
#pragma unroll 1
      for (int c = thread_index(); c < kDim; c += 32) embedding()[c] = of(c);
    }
  }

  // scale s(n) of this thread's query; any number outside the image.
  __device__ float factor() const {
    const int query = mine();
    return static_cast<const float*>(in_.scale.data)[head() * in_.scale.stride[0]] *
           length_scale(position_.row(query), position_.column(query),
                        static_cast<int>(in_.window_size), in_.grid,
                        static_cast<int>(in_.pool_grid.size()));
  }

  __device__ void accumulate_pooled_gemms(GemmQueries<Tile, T, kDim>& queries) const {
    const auto bias = this->bias();
    queries.store_norms(rows_, terms());
    terms()[mine()].factor = factor();
    terms()[mine()].biases = bias.values() + bias.query_offset(mine());
    auto stream = this->stream(bias);
    while (stream.advance()) {
      if (position_.warp_inside(mine())) queries.add_chunk(stream, rows_, terms());
    }
    queries.settle(terms());
  }

  // Stores the results of 16-bit types over the queries, which the block no longer reads.
  __device__ void store_output(const GemmQueries<Tile, T, kDim>& queries) const {
    queries.store_output(rows_);
    const SoftmaxTerms softmax = terms()[mine()].softmax;
    store((log2_fast(softmax.sum) - softmax.offset) * kLn2);
  }

  // Loads the GEMMs' results of this thread's query.
  __device__ void read_exchange(float (&out)[kDim]) const {
    const auto* row = part<float4>(at_.exchange) + mine() * (kDim / 4 + 1);
#pragma unroll
    for (int c = 0; c < kDim; c += 4) {
      const float4 four = row[c / 4];
      out[c] = four.x;
      out[c + 1] = four.y;
      out[c + 2] = four.z;
      out[c + 3] = four.w;
    }
  }

  // Float: the window, if any, by the query's own thread; then the result.
  __device__ void finish_rows(const float (&query)[kDim], RowTerms& row, float (&out)[kDim]) const {
    if constexpr (kWindow == kNoWindow) {
      scale_row(row, out);
      __syncthreads();
      finish_row(row.maximum, row.sum, out);
    } else if constexpr (kWindow > 0) {
      const SharedWindow<Tile, kDim, kWindow> window{
          {memory_ + at_.window_keys},     part<float>(at_.window_norms),  part<float>(at_.tokens),
          part<float>(at_.window_weights), part<float2>(at_.window_terms), embedding(),
      };
      window.load(in_, position_);
      __syncthreads();
      window.accumulate(in_, position_, query, row, out);
      __syncthreads();
      finish_row(row.maximum, row.sum, out);
    } else {
      finish_any_window(query, row.factor, row.maximum, row.sum, out);
    }
  }

  // Query: float[kDim], or a SharedQuery.
  template <class Query>
  __device__ void finish_any_window(const Query& query, float factor, float maximum, float sum,
                                    float (&out)[kDim]) const {
    if (position_.inside(mine())) {
      accumulate_any_window<Element>(in_, *position_.state, position_.row(mine()),
                                     position_.column(mine()), WindowParameters(in_, head()), rows_,
                                     mine(), query, factor, maximum, sum, out);
    }
    __syncthreads();
    finish_row(maximum, sum, out);
  }

  __device__ static void scale_row(const RowTerms& row, float (&out)[kDim]) {
    const float inverse = 1.0f / row.sum;
#pragma unroll
    for (int c = 0; c < kDim; ++c) out[c] *= inverse;
  }

  __device__ void finish_row(float maximum, float sum, const float (&out)[kDim]) const {
    rows_.write(mine(), out);
    store(maximum + logf(sum));
  }

  // Stores this thread's log_sum_exp, and the output rows of its warp's queries from shared memory.
  __device__ void store(float log_sum_exp) const {
    __syncwarp();
    const int lane = thread_index() % 32;
    const TileCorner corner = warp_corner(position_);
    const int row = corner.top + lane / kWarpColumns;
    const int column = corner.left + lane % kWarpColumns;
    const View<3>& target = launch_.p.log_sum_exp;
    if (corner.inside(row, column))
      static_cast<float*>(
          target.data)[batch() * target.stride[0] + corner.token(row, column) * target.stride[1] +
                       head() * target.stride[2]] = log_sum_exp;
    store_queries(HeadRows<Element>(launch_.p.out, *position_.state), corner, rows_);
  }

  const AttentionForwardLaunch& launch_;
  const AggregatedAttentionInputs& in_;
  const ForwardLayout at_;
  unsigned char* memory_;
  TilePosition<Tile> position_;
  Rows rows_;
};

// Threads of a multiprocessor that the registers must suffice for: a third of its threads for the
// published models' kernels. The PTX of 8.0, with 80 registers, spills nothing on multiprocessors of
// 1536 threads either, but front ends for 10.0 and later unroll further.
__host__ __device__ constexpr int least_threads(int channels, int window) {
  constexpr int kThird = multiprocessor_threads() == 1536 ? 512 : 768;  // in whole blocks of 256
  return channels == 24 && window != kAnyWindow ? kThird : 256;
}

}  // namespace device

// Block (Tile::kQueries). Grid: tiles of (image, tile row, tile column, head), heads fastest: the
// heads of a row of q share sectors.
template <class T, int kDim, int kWindow, class Tile>
__global__ void __launch_bounds__(Tile::kQueries,
                                  device::least_threads(kDim, kWindow) / Tile::kQueries)
    aggregated_attention_forward(AttentionForwardLaunch launch) {
  const device::ForwardTile<T, kDim, kWindow, Tile> tile(launch);
  tile.load();
  if constexpr (!OnTensorCores<T>::value) {
    tile.attend_by_rows();
  } else if constexpr (RoundsToTensorFloat<T>::value) {
    tile.attend_by_tf32_gemms();
  } else if constexpr (kWindow == kNoWindow) {
    tile.attend_by_pooled_gemms();
  } else if constexpr (kWindow == kAnyWindow) {
    tile.attend_by_pooled_gemms_and_rows();
  } else {
    tile.attend_by_gemms();
  }
}

}  // namespace transnext
