// Aggregated attention, forward, in one pass: T in float, Half, BFloat16; float arithmetic.
//
// A block makes a tile of queries of one (image, head): the queries into shared memory;
// pooled keys and values chunk by chunk under an online softmax (attention_pooled.cuh); then the
// window's, whose keys and values with their halo take the place of the chunks
// (attention_window.cuh); the output through shared memory back in whole rows. log_sum_exp is kept
// for the backward pass. kWindow is 3, or 0 for any window size (and none: global attention).
//
// Per query and head, d channels, L cells, P pooled keys: 4 d P operations of pooled products, on
// tensor cores for 16-bit T; 6 d L for window and tokens, about 10 d to normalise; L + P
// exponentials. Bytes: q, k, v and out once, 4 d sizeof(T), the halo's share of k and v (33 % of a
// wide tile) and each pooled row once per tile again, from the second-level cache; the bias table's
// rows once per tile; log_sum_exp 4.
#pragma once

#include "device/attention_pooled.cuh"
#include "device/attention_window.cuh"
#include "device/rectangle.cuh"
#include "transnext/attention_launch.h"

namespace transnext {

namespace device {

// (qn + embedding) of a row of q, in place.
template <int kDim>
__device__ inline void normalise_query(const float* embedding, float (&query)[kDim]) {
  float square = 0.0f;
#pragma unroll
  for (int c = 0; c < kDim; ++c) square += query[c] * query[c];
  const float norm = inverse_norm(square);
#pragma unroll
  for (int c = 0; c < kDim; ++c) query[c] = query[c] * norm + embedding[c];
}

// scale s(n) of the query at (row, column).
__device__ inline float query_factor(const AggregatedAttentionInputs& in, index_t head, int row,
                                     int column) {
  return static_cast<const float*>(in.scale.data)[head * in.scale.stride[0]] *
         length_scale(row, column, static_cast<int>(in.window_size), in.grid,
                      static_cast<int>(in.pool_grid.size()));
}

}  // namespace device

// Block (Tile::kQueries). Grid: tiles of (image, tile row, tile column, head), heads fastest: the
// heads of a row of q share its sectors.
template <class T, int kDim, int kWindow, class Tile>
__global__ void __launch_bounds__(Tile::kQueries, (kWindow > 0 ? 512 : 256) / Tile::kQueries)
    aggregated_attention_forward(AttentionForwardLaunch launch) {
  using namespace device;
  using Rows = SharedRows<T, kDim>;
  constexpr bool kTensorCores = sizeof(T) == 2;
  const AggregatedAttentionInputs& in = launch.p.in;
  const ForwardLayout at(kDim, sizeof(T), Tile::kRows, Tile::kColumns, kWindow,
                         in.pool_bias.values.present(), launch.bias_ring, in.pool_grid.height,
                         in.pool_grid.width);
  auto* memory = dynamic_shared<unsigned char>();
  auto* places = reinterpret_cast<int2*>(memory + at.key_places);
  auto* factors = reinterpret_cast<float*>(memory + at.factors);
  auto* norms = reinterpret_cast<float*>(memory + at.key_norms);
  auto* embeddings = reinterpret_cast<float*>(memory + at.key_embeddings);
  auto* embedding = reinterpret_cast<float*>(memory + at.embedding);
  const Rows rows{memory + at.queries};
  const int mine = threadIdx.x;

  const auto heads = static_cast<unsigned>(in.q.shape[2]);
  const auto tile_columns =
      static_cast<unsigned>((in.grid.width + Tile::kColumns - 1) / Tile::kColumns);
  const auto tile_rows = static_cast<unsigned>((in.grid.height + Tile::kRows - 1) / Tile::kRows);
  auto* state = reinterpret_cast<TileState*>(memory + at.state);
  if (mine == 0) {
    const unsigned tile = blockIdx.x / heads;
    state->head = static_cast<int>(blockIdx.x % heads);
    state->batch = static_cast<int>(tile / tile_columns / tile_rows);
    state->top = static_cast<int>(tile / tile_columns % tile_rows) * Tile::kRows;
    state->left = static_cast<int>(tile % tile_columns) * Tile::kColumns;
  }
  __syncthreads();
  const TilePlace<Tile> place{state, &in.grid};
  load_queries(HeadRows<T>(in.q, state->batch, state->head), place, rows);
  commit_copies();
  for (int c = mine; c < kDim; c += Tile::kQueries)
    embedding[c] = WindowParameters(in, state->head).embedding_of(c);
  wait_copies<0>();
  __syncthreads();

  float query[kDim];
  if (!kTensorCores) {
    rows.read(mine, query);
    normalise_query(embedding, query);
    __syncthreads();  // what comes takes the queries' place
  }
  PooledStream<Tile, T, kDim> stream(in, state, memory + at.keys, memory + at.values, norms,
                                     embeddings, embedding);
  TileBias<Tile, T> bias(in, state, launch.bias_ring,
                         reinterpret_cast<int*>(memory + at.first_rows),
                         reinterpret_cast<int*>(memory + at.first_columns),
                         reinterpret_cast<float*>(memory + at.bias));
  factors[mine] = place.inside(mine)
                      ? query_factor(in, state->head, place.row(mine), place.column(mine))
                      : 0.0f;
  float maximum = kNoLogit;
  float sum = 0.0f;
  float out[kDim];
  if constexpr (kTensorCores) {
    auto* query_norms = reinterpret_cast<float*>(memory + at.query_norms);
    query_norms[mine] = rows.inverse_norm(mine);
    TensorCoreQueries<Tile, T, kDim> queries;
    queries.take(stream, bias, place, rows, factors, query_norms, norms, embeddings, places);
    __syncthreads();
    auto* sums = reinterpret_cast<float2*>(memory + at.sums);
    queries.give(reinterpret_cast<float*>(memory + at.exchange), sums);
    __syncthreads();
    const auto* row = reinterpret_cast<const float4*>(memory + at.exchange) + mine * (kDim / 4 + 1);
#pragma unroll
    for (int c = 0; c < kDim; c += 4) {
      const float4 four = row[c / 4];
      out[c] = four.x;
      out[c + 1] = four.y;
      out[c + 2] = four.z;
      out[c + 3] = four.w;
    }
    maximum = sums[mine].x;
    sum = sums[mine].y;
    rows.read(mine, query);
    normalise_query(embedding, query);
  } else {
#pragma unroll
    for (int c = 0; c < kDim; ++c) out[c] = 0.0f;
    take_pooled(stream, bias, place, norms, places, query, factors[mine], maximum, sum, out);
  }
  __syncthreads();

  if constexpr (kWindow > 0) {
    const SharedWindow<Tile, T, kDim, kWindow> window{
        {memory + at.window_keys},
        {memory + at.window_values},
        reinterpret_cast<float*>(memory + at.window_norms),
        reinterpret_cast<float*>(memory + at.tokens),
        reinterpret_cast<float2*>(memory + at.window_terms),
        embedding};
    window.load(in, state->batch, state->head, place);
    __syncthreads();
    window.take(in, state->batch, state->head, place, query, factors[mine], maximum, sum, out);
  } else if (place.inside(mine)) {
    take_any_window<T>(in, state->batch, state->head, place.row(mine), place.column(mine),
                       WindowParameters(in, state->head), query, factors[mine], maximum, sum, out);
  }

  if (!kTensorCores) __syncthreads();
  rows.write(mine, out);
  if (place.inside(mine)) {
    const View<3>& target = launch.p.log_sum_exp;
    static_cast<float*>(
        target.data)[state->batch * target.stride[0] + place.token(mine) * target.stride[1] +
                     state->head * target.stride[2]] = maximum + logf(sum);
  }
  __syncthreads();
  store_queries(HeadRows<T>(launch.p.out, state->batch, state->head), place, rows);
}

}  // namespace transnext
