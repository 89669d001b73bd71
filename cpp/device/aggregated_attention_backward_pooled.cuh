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
#include "device/math.cuh"
#include "device/pooled_bias.cuh"
#include "device/rectangle.cuh"
#include "device/token_rows.cuh"

namespace transnext {

// Block (kAttentionPooledThreads). Grid: (head, slice, key tile, image), heads fastest.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionPooledThreads, kDim <= 32 ? 4 : 1)
    aggregated_attention_backward_pooled(AggregatedAttentionBackwardLaunch launch) {
  using namespace device;
  constexpr int stride = row_stride<T>(kDim);
  constexpr int chunks = kDim / 8;
  constexpr int keys = kAttentionPoolTile;
  constexpr int tile = kAttentionPooledQueries;
  constexpr int threads = kAttentionPooledThreads;
  const AggregatedAttentionBackwardParams& p = launch.params;
  const AggregatedAttentionInputs& in = p.in;
  T* key_rows = dynamic_shared<T>();           // [keys] as stored
  T* value_rows = key_rows + keys * stride;    // [keys]
  T* query_rows = value_rows + keys * stride;  // [tile]
  T* d_out_rows = query_rows + tile * stride;  // [tile]
  T* unit_rows = d_out_rows + tile * stride;   // [tile] qh |d_out| / largest
  // The bias of the tile's queries, [keys][pitch], and places of the table's rows and columns, [tile]
  // [pooled rows of a tile of keys] and [tile][Wp taps], where the plan has room for them.
  constexpr int pitch = kAttentionBiasTilePitch;
  float* biases = reinterpret_cast<float*>(unit_rows + tile * stride);
  int* row_places = reinterpret_cast<int*>(biases + keys * pitch);
  int* column_places = row_places + tile * launch.plan.pooled_bias_rows;
  const bool bias_tile = launch.plan.pooled_bias_rows > 0;
  __shared__ float embedding[kDim], key_inverse[keys], key_embedding[keys];
  __shared__ float query_inverse[tile], scaling[tile], log_sum_exps[tile], deltas[tile];
  __shared__ float d_out_norm[tile], d_out_inverse[tile];
  __shared__ int query_row[tile], query_column[tile];

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int own = thread / 32 * 16;  // the warp's first key in the tile
  const int pooled = static_cast<int>(in.k_pool.shape[1]);
  const int width = static_cast<int>(in.grid.width);
  const int pool_width = static_cast<int>(in.pool_grid.width);
  const int channels = static_cast<int>(in.q.shape[3]);
  const index_t tokens = in.grid.size();
  const unsigned heads = static_cast<unsigned>(in.q.shape[2]);
  const unsigned slices = static_cast<unsigned>(launch.plan.slices);
  const unsigned key_tiles = static_cast<unsigned>((pooled + keys - 1) / keys);
  const unsigned head = blockIdx.x % heads;
  const unsigned slice = blockIdx.x / heads % slices;
  const int first_key = static_cast<int>(blockIdx.x / heads / slices % key_tiles) * keys;
  const unsigned batch = blockIdx.x / heads / slices / key_tiles;
  const int key_count = pooled - first_key < keys ? pooled - first_key : keys;
  const index_t first_query = index_t{slice} * launch.plan.slice;
  const index_t end_query =
      first_query + launch.plan.slice < tokens ? first_query + launch.plan.slice : tokens;

  const auto key_of = [=](int i) { return index_t{i < key_count ? first_key + i : -1}; };
  stage_rows<kDim>(TokenRows<T>(in.k_pool, batch, head), keys, key_of, key_rows);
  stage_rows<kDim>(TokenRows<T>(in.v_pool, batch, head), keys, key_of, value_rows);
#pragma unroll 1
  for (int c = thread; c < kDim; c += threads) {
    embedding[c] = 0.0f;
    if (in.query_embedding.present() && c < channels)
      embedding[c] = static_cast<const float*>(
          in.query_embedding
              .data)[head * in.query_embedding.stride[0] + c * in.query_embedding.stride[1]];
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < keys; i += threads) {
    key_inverse[i] = 1.0f / fmaxf(row_norm<kDim>(key_rows + i * stride), kNormEpsilon);
    key_embedding[i] = row_dot<kDim>(key_rows + i * stride, embedding) * key_inverse[i];
  }
  __syncthreads();

  // The lane's two keys.
  int key[2], key_row[2], key_column[2];
  float inverse[2], embedded[2];
  for (int h = 0; h < 2; ++h) {
    const int i = own + 8 * h + lane_row(lane);
    key[h] = first_key + i;
    key_row[h] = key[h] / pool_width;
    key_column[h] = key[h] % pool_width;
    inverse[h] = key_inverse[i];
    embedded[h] = key_embedding[i];
  }
  const PooledBias bias(in.pool_bias, head);
  const bool atomics = launch.plan.table_atomics;
  float* table = static_cast<float*>(p.d_pool_bias.data);
  const index_t columns = p.d_pool_bias.shape[2];
  if (atomics) table += head * p.d_pool_bias.shape[1] * columns;
  const float scale = static_cast<const float*>(in.scale.data)[head * in.scale.stride[0]];
  const TokenRows<T> queries(in.q, batch, head);
  const TokenRows<T> d_outs(p.d_out, batch, head);
  const float* log_sum_exp = static_cast<const float*>(p.log_sum_exp.data) +
                             batch * p.log_sum_exp.stride[0] + head * p.log_sum_exp.stride[2];
  const float* delta =
      launch.workspace + launch.plan.delta + (index_t{batch} * heads + head) * tokens;

  float d_key[chunks][4] = {}, d_value[chunks][4] = {};
  float largest = 0.0f;
  for (index_t first = first_query; first < end_query; first += tile) {
    const int count = static_cast<int>(end_query - first < tile ? end_query - first : tile);
    const auto query_of = [=](int i) { return i < count ? first + i : index_t{-1}; };
    __syncthreads();  // all are done with the tile before
    stage_rows<kDim>(queries, tile, query_of, query_rows);
    stage_rows<kDim>(d_outs, tile, query_of, d_out_rows);
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < tile; i += threads) {
      const index_t n = i < count ? first + i : first;
      query_row[i] = static_cast<int>(n / width);
      query_column[i] = static_cast<int>(n % width);
      query_inverse[i] = 1.0f / fmaxf(row_norm<kDim>(query_rows + i * stride), kNormEpsilon);
      scaling[i] = scale * length_scale(query_row[i], query_column[i],
                                        static_cast<int>(in.window_size), in.grid, pooled);
      log_sum_exps[i] = log_sum_exp[n * p.log_sum_exp.stride[1]];
      deltas[i] = delta[n];
      d_out_norm[i] = row_norm<kDim>(d_out_rows + i * stride);
      d_out_inverse[i] = d_out_norm[i] > 0.0f ? 1.0f / d_out_norm[i] : 0.0f;
    }
    __syncthreads();
    const float before = largest;
    static_assert(tile == 32, "a lane per query");
    largest = fmaxf(largest, warp_max(d_out_norm[lane] * fabsf(scaling[lane])));
    if (largest > before && before > 0.0f) {
#pragma unroll
      for (int t = 0; t < chunks; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) d_key[t][e] *= before / largest;
      }
    }
#pragma unroll 1
    for (int item = thread; item < tile * chunks; item += threads) {
      const int i = item / chunks;
      const int chunk = item % chunks;
      const float factor = largest > 0.0f ? scaling[i] * d_out_norm[i] / largest : 0.0f;
      float x[8];
      read_eight(query_rows + i * stride + chunk * 8, x);
#pragma unroll
      for (int c = 0; c < 8; ++c)
        x[c] = (x[c] * query_inverse[i] + embedding[chunk * 8 + c]) * factor;
      write_eight(x, unit_rows + i * stride + chunk * 8);
    }
    if (bias_tile) {
      const int first_row = first_key / pool_width;
      const int rows = (first_key + key_count - 1) / pool_width - first_row + 1;
#pragma unroll 1
      for (int item = thread; item < count * rows; item += threads)
        row_places[item] = bias.table_row(query_row[item / rows], first_row + item % rows) *
                           static_cast<int>(in.pool_bias.values.stride[1]);
      const int taps = bias.taps();
#pragma unroll 1
      for (int item = thread; item < count * pool_width * taps; item += threads) {
        const int i = item / taps / pool_width;
        column_places[item] =
            bias.table_column(query_column[i], item / taps - i * pool_width, item % taps) *
            static_cast<int>(in.pool_bias.values.stride[2]);
      }
      __syncthreads();
#pragma unroll 1
      for (int item = thread; item < key_count * tile; item += threads) {
        const int i = item % tile;
        if (i >= count) continue;
        const int a = (first_key + item / tile) / pool_width;
        const int b = first_key + item / tile - a * pool_width;
        const float* row = bias.values() + row_places[i * rows + a - first_row];
        float sum = 0.0f;
#pragma unroll 1
        for (int tap = 0; tap < taps; ++tap)
          sum += bias.weight(query_column[i], b, tap) *
                 row[column_places[(i * pool_width + b) * taps + tap]];
        biases[item / tile * pitch + i] = sum;
      }
    }
    __syncthreads();
    if (own >= key_count) continue;  // a warp without keys

#pragma unroll 1
    for (int sub = 0; sub < count; sub += 16) {
      float weight[2][4] = {}, d_logit[2][4] = {};
      multiply_rows<kDim>(key_rows + (own + lane_row(lane)) * stride,
                          key_rows + (own + 8 + lane_row(lane)) * stride, query_rows + sub * stride,
                          lane, weight);
      multiply_rows<kDim>(value_rows + (own + lane_row(lane)) * stride,
                          value_rows + (own + 8 + lane_row(lane)) * stride,
                          d_out_rows + sub * stride, lane, d_logit);
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int h = e / 2;
          const int i = sub + t * 8 + lane_column(lane) + e % 2;
          float value = 0.0f;
          if (i < count && key[h] < pooled) {
            const float logit =
                scaling[i] * (weight[t][e] * query_inverse[i] * inverse[h] + embedded[h]) +
                (bias_tile ? biases[(key[h] - first_key) * pitch + i]
                           : bias.at(query_row[i], query_column[i], first + i, key_row[h],
                                     key_column[h], key[h]));
            value = exp_fast(logit - log_sum_exps[i]);
          }
          weight[t][e] = value;
          const float gradient = value * (d_logit[t][e] - deltas[i]);
          if (atomics && i < count && key[h] < pooled) {
            float* row = table + bias.table_row(query_row[i], key_row[h]) * columns;
#pragma unroll 1
            for (int tap = 0; tap < bias.taps(); ++tap)
              atomicAdd(row + bias.table_column(query_column[i], key_column[h], tap),
                        gradient * bias.weight(query_column[i], key_column[h], tap));
          }
          d_logit[t][e] = gradient * d_out_inverse[i];
        }
      }
      multiply_weights<kDim>(d_logit, unit_rows + sub * stride, lane, d_key);
      multiply_weights<kDim>(weight, d_out_rows + sub * stride, lane, d_value);
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
