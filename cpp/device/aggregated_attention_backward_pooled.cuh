// aggregated_attention backward, the share of the pooled keys, after the tokens' (delta is in the
// workspace):
//
//   d_kpn(m) = sum_n d_l_m(n) qh(n),   d_vp(m) = sum_n a_m(n) d_out(n)
//   d_table  = sum over images, n, m of d_l_m(n) weights, where atomic additions may make it
//
// A block owns 64 pooled keys of one (image, head) and a slice of the queries, which pass through
// shared memory 32 at a time; a warp owns 16 of the keys. Its sums go to the workspace, one per
// slice, and are added in the slices' order by aggregated_attention_backward_pooled_sums.
//
// d_l_m(n) / |d_out(n)| and qh(n) |d_out(n)| / largest are what is rounded to 16 bit, `largest` being
// the largest |d_out(n)| times scale so far: both are of moderate size whatever the gradients' is.
//
// Per query, head and 64 keys: bytes 2 d sizeof(T) + 8 read, flops 8 d 64.
#pragma once

#include "device/aggregated_attention_backward_shape.h"
#include "device/extrapolated_bias.cuh"
#include "device/math.cuh"
#include "device/pooled_bias.cuh"
#include "device/rectangle.cuh"
#include "device/token_rows.cuh"

namespace transnext {

namespace device {

__device__ inline float& element(float2* pairs, int i) {
  return reinterpret_cast<float*>(pairs)[i];
}
__device__ inline int& element(int2* pairs, int i) {
  return reinterpret_cast<int*>(pairs)[i];
}

}  // namespace device

// Block (kAttentionPooledThreads). Grid: (head, slice, key tile, image), heads fastest.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionPooledThreads, kDim <= 32 ? 4 : 1)
    aggregated_attention_backward_pooled(AggregatedAttentionBackwardLaunch launch) {
  using namespace device;
  constexpr bool kTensorCores = OnTensorCores<T>::value;
  constexpr int stride = row_stride<T>(kDim);
  constexpr int chunks = kDim / 8;
  constexpr int keys = kAttentionPoolTile;
  constexpr int tile = kAttentionPooledQueries;
  constexpr int threads = kAttentionPooledThreads;
  constexpr int kSub = 16;  // queries for each product
  const AggregatedAttentionBackwardParams& p = launch.params;
  const AggregatedAttentionInputs& in = p.in;
  T* key_rows = dynamic_shared<T>();           // [keys] as stored
  T* value_rows = key_rows + keys * stride;    // [keys]
  T* query_rows = value_rows + keys * stride;  // [tile]
  T* d_out_rows = query_rows + tile * stride;  // [tile]
  // [tile] qh |d_out| / largest; of float, qh in place of q.
  T* unit_rows = kTensorCores ? d_out_rows + tile * stride : query_rows;
  float* stages = reinterpret_cast<float*>(d_out_rows + (kTensorCores ? 2 : 1) * tile * stride);
  alignas(16) __shared__ float embedding[kDim];
  __shared__ float key_inverse[keys], key_embedding[keys];
  // Of the tile's queries, in pairs, as lanes read them; places in the bias and in its gradient.
  __shared__ float2 query_inverse[tile / 2], scaling[tile / 2], log_sum_exps[tile / 2];
  __shared__ float2 deltas[tile / 2], d_out_inverse[tile / 2];
  __shared__ int2 bias_place[tile / 2], table_place[tile / 2];
  __shared__ float d_out_norm[tile];
  __shared__ int query_row[tile], query_column[tile];

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int own = thread / 32 * 16;  // the warp's first key in the tile
  const int pooled = static_cast<int>(in.k_pool.shape[1]);
  const int width = static_cast<int>(in.grid.width);
  const int pool_width = static_cast<int>(in.pool_grid.width);
  const int channels = static_cast<int>(in.q.shape[3]);
  const int tokens = static_cast<int>(in.grid.size());
  const unsigned heads = static_cast<unsigned>(in.q.shape[2]);
  const unsigned slices = static_cast<unsigned>(launch.plan.slices);
  const unsigned key_tiles = static_cast<unsigned>((pooled + keys - 1) / keys);
  const unsigned head = blockIdx.x % heads;
  const unsigned slice = blockIdx.x / heads % slices;
  const int first_key = static_cast<int>(blockIdx.x / heads / slices % key_tiles) * keys;
  const unsigned batch = blockIdx.x / heads / slices / key_tiles;
  const int key_count = pooled - first_key < keys ? pooled - first_key : keys;
  const int first_query = static_cast<int>(slice) * launch.plan.slice;
  const int end_query =
      tokens - first_query < launch.plan.slice ? tokens : first_query + launch.plan.slice;

  const auto key_of = [=](int i) { return index_t{i < key_count ? first_key + i : -1}; };
  stage_rows<kDim>(TokenRows<T>(in.k_pool, batch, head), keys, key_of, key_rows);
  stage_rows<kDim>(TokenRows<T>(in.v_pool, batch, head), keys, key_of, value_rows);
  finish_copies();
#pragma unroll 1
  for (int c = thread; c < kDim; c += threads)
    embedding[c] = head_parameter(in.query_embedding, head, c);
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < keys; i += threads) {
    key_inverse[i] = 1.0f / fmaxf(row_norm<kDim>(key_rows + i * stride), kNormEpsilon);
    key_embedding[i] = row_dot<kDim>(key_rows + i * stride, embedding) * key_inverse[i];
  }
  __syncthreads();

  const PooledBias bias(in.pool_bias, head);
  const bool atomics = launch.plan.table_atomics;
  float* table = static_cast<float*>(p.d_pool_bias.data);
  const int columns = static_cast<int>(p.d_pool_bias.shape[2]);
  if (atomics) table += head * p.d_pool_bias.shape[1] * columns;
  const bool steps = grows_by_steps(bias, in, first_query / width, (end_query - 1) / width + 1);
  // Whether the bias is a value at a place that is the sum of the query's and the key's.
  const bool places =
      steps || (in.pool_bias.dense() && tokens * in.pool_bias.values.stride[1] < index_t{1} << 31);

  // The lane's two keys.
  int key[2], key_table_place[2] = {};
  const float* key_biases[2] = {};  // where they are that queries' places count from
  float inverse[2], embedded[2];
  for (int h = 0; h < 2; ++h) {
    const int i = own + 8 * h + lane_row(lane);
    key[h] = first_key + i;
    const int present = i < key_count ? key[h] : first_key;
    const int a = present / pool_width;
    const int b = present - a * pool_width;
    inverse[h] = key_inverse[i];
    embedded[h] = key_embedding[i];
    if (steps) key_table_place[h] = bias.table_row(0, a) * columns + bias.table_column(0, b, 0);
    if (places) key_biases[h] = bias.key_entries(a, b, present);
  }
  const float scale = static_cast<const float*>(in.scale.data)[head * in.scale.stride[0]];
  const float* log_sum_exp = static_cast<const float*>(p.log_sum_exp.data) +
                             batch * p.log_sum_exp.stride[0] + head * p.log_sum_exp.stride[2];
  const float* delta =
      launch.workspace + launch.plan.delta + (index_t{batch} * heads + head) * tokens;

  float d_key[chunks][4] = {}, d_value[chunks][4] = {};
  float largest = kTensorCores ? 0.0f : 1.0f;
#pragma unroll 1
  for (int first = first_query; first < end_query; first += tile) {
    const int count = end_query - first < tile ? end_query - first : tile;
    const auto query_of = [=](int i) { return index_t{i < count ? first + i : -1}; };
    __syncthreads();  // all are done with the tile before
    // Made anew for each tile: kept, they would take many registers.
    stage_rows<kDim>(TokenRows<T>(in.q, batch, head), tile, query_of, query_rows);
    stage_rows<kDim>(TokenRows<T>(p.d_out, batch, head), tile, query_of, d_out_rows);
    finish_copies();
    __syncthreads();
    {
      // Four lanes to a query: each has a part of its rows.
      static_assert(threads == 4 * tile, "a thread for each");
      const int i = thread / 4;
      const int n = i < count ? first + i : first;
      const int y = n / width;
      const int x = n - y * width;
      const float query_square = part_square<kDim>(query_rows + i * stride, lane % 4);
      const float d_out_square = part_square<kDim>(d_out_rows + i * stride, lane % 4);
      const float norm = sqrtf(sum_of_four(d_out_square));
      const float inverse = inverse_norm(sum_of_four(query_square));
      if (lane % 4 == 0) {
        d_out_norm[i] = norm;
        element(d_out_inverse, i) = norm > 0.0f ? 1.0f / norm : 0.0f;
        element(query_inverse, i) = inverse;
      } else if (lane % 4 == 1) {
        element(scaling, i) =
            scale * length_scale(y, x, static_cast<int>(in.window_size), in.grid, pooled);
      } else if (lane % 4 == 2) {
        // No weights for what is not there.
        element(log_sum_exps, i) = i < count ? log_sum_exp[n * p.log_sum_exp.stride[1]] : 3e38f;
        element(deltas, i) = delta[n];
      } else {
        query_row[i] = y;
        query_column[i] = x;
        if (places) element(bias_place, i) = bias.query_place(y, x, n);
        element(table_place, i) = y * columns + x;
      }
    }
    __syncthreads();
    if constexpr (kTensorCores) {
      const float before = largest;
      static_assert(tile == 32, "a lane per query");
      largest = fmaxf(largest, warp_max(d_out_norm[lane] * fabsf(element(scaling, lane))));
      if (largest > before && before > 0.0f) {
#pragma unroll
        for (int t = 0; t < chunks; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e) d_key[t][e] *= before / largest;
        }
      }
    }
#pragma unroll 1
    for (int item = thread; item < tile * chunks; item += threads) {
      const int i = item / chunks;
      const int chunk = item % chunks;
      float factor = element(scaling, i);
      if constexpr (kTensorCores) factor = largest > 0.0f ? factor * d_out_norm[i] / largest : 0.0f;
      const float norm = element(query_inverse, i);
      float x[8];
      read_eight(query_rows + i * stride + chunk * 8, x);
#pragma unroll
      for (int c = 0; c < 8; ++c) x[c] = (x[c] * norm + embedding[chunk * 8 + c]) * factor;
      write_eight(x, unit_rows + i * stride + chunk * 8);
    }
    __syncthreads();
    if (own >= key_count) continue;  // a warp without keys

#pragma unroll 1
    for (int sub = 0; sub < count; sub += kSub) {
      float weight[kSub / 8][4] = {}, d_logit[kSub / 8][4] = {};
      // Asked for before the products, so that they are on their way meanwhile.
      float biases[kSub / 8][4] = {};
      if (places) {
#pragma unroll
        for (int t = 0; t < kSub / 8; ++t) {
          const int2 place = bias_place[(sub + t * 8 + lane_column(lane)) / 2];
#pragma unroll
          for (int e = 0; e < 4; ++e)
            biases[t][e] = key_biases[e / 2][e % 2 == 0 ? place.x : place.y];
        }
      }
      multiply_rows<kDim>(key_rows + (own + lane_row(lane)) * stride,
                          key_rows + (own + 8 + lane_row(lane)) * stride, query_rows + sub * stride,
                          lane, weight);
      multiply_rows<kDim>(value_rows + (own + lane_row(lane)) * stride,
                          value_rows + (own + 8 + lane_row(lane)) * stride,
                          d_out_rows + sub * stride, lane, d_logit);
#pragma unroll
      for (int t = 0; t < kSub / 8; ++t) {
        const int pair = (sub + t * 8 + lane_column(lane)) / 2;
        const float sums[2] = {log_sum_exps[pair].x, log_sum_exps[pair].y};
        const float delta_of[2] = {deltas[pair].x, deltas[pair].y};
        float (&value)[4] = biases[t];
        if (!places) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int i = 2 * pair + e % 2;
            const int n = i < count ? first + i : first;
            const int m = key[e / 2] < pooled ? key[e / 2] : first_key;
            value[e] = bias.at(query_row[i], query_column[i], n, m / pool_width, m % pool_width, m);
          }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int h = e / 2;
          float logit = weight[t][e] * inverse[h];
          if constexpr (kTensorCores) {
            const float norm = e % 2 == 0 ? query_inverse[pair].x : query_inverse[pair].y;
            const float scale = e % 2 == 0 ? scaling[pair].x : scaling[pair].y;
            logit = scale * (logit * norm + embedded[h]);
          }
          weight[t][e] = exp_fast(logit + value[e] - sums[e % 2]);
          value[e] = weight[t][e] * (d_logit[t][e] - delta_of[e % 2]);
          d_logit[t][e] = value[e];
          if constexpr (kTensorCores)
            d_logit[t][e] *= e % 2 == 0 ? d_out_inverse[pair].x : d_out_inverse[pair].y;
        }
        if (!atomics) continue;
        const int2 place = table_place[pair];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int h = e / 2;
          const int i = 2 * pair + e % 2;
          if (i >= count || key[h] >= pooled) continue;
          if (steps) {
            atomicAdd(table + key_table_place[h] + (e % 2 == 0 ? place.x : place.y), value[e]);
            continue;
          }
          const int a = key[h] / pool_width;
          const int b = key[h] - a * pool_width;
          float* row = table + bias.table_row(query_row[i], a) * columns;
#pragma unroll 1
          for (int tap = 0; tap < bias.taps(); ++tap)
            atomicAdd(row + bias.table_column(query_column[i], b, tap),
                      value[e] * bias.weight(query_column[i], b, tap));
        }
      }
#pragma unroll
      for (int t = 0; t < kSub / 8; t += 2) {
        const int row = (sub + t * 8) * stride;
        if constexpr (kTensorCores) {
          multiply_weights<kDim>(d_logit[t], d_logit[t + 1], unit_rows + row, lane, d_key);
          multiply_weights<kDim>(weight[t], weight[t + 1], d_out_rows + row, lane, d_value);
        } else {
          float* stage = stages + own * kAttentionStagedWeights;
          multiply_weights<kDim>(d_logit[t], d_logit[t + 1], unit_rows + row, lane, stage, d_key);
          multiply_weights<kDim>(weight[t], weight[t + 1], d_out_rows + row, lane, stage, d_value);
        }
      }
    }
  }

  const index_t pairs = in.q.shape[0] * heads;
  float* sums = launch.workspace + launch.plan.pooled_sums +
                (slice * pairs + index_t{batch} * heads + head) * pooled * 2 * channels;
#pragma unroll
  for (int t = 0; t < chunks; ++t) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int c = t * 8 + lane_column(lane) + e % 2;
      if (c >= channels || key[e / 2] >= pooled) continue;
      sums[index_t{key[e / 2]} * 2 * channels + c] = d_key[t][e] * largest;
      sums[index_t{key[e / 2]} * 2 * channels + channels + c] = d_value[t][e];
    }
  }
}

}  // namespace transnext
