// aggregated_attention backward, the gradient of the pooled logits' bias without atomic additions:
//
//   d_pool_bias(n, m) = sum over images of d_l_m(n)
//
// Lanes hold the fragments of 16 queries of an image row i and 8 pooled keys of a pooled row a
// (cuda/kernels/common/tensor_core.cuh), with operands loaded straight from global memory, and
// accumulate over the images. For a dense bias these sums are the gradient. For a table, a warp
// adds them to a row of the table in shared memory, one lane after the other, since several lanes
// may add to one entry. The warp stores that row in the workspace, and
// aggregated_attention_backward_table_sums adds the rows of all (i, a) that map to one table row.
//
// Per (n, m): flops 4 d B; bytes 4 d sizeof(T) B / 8, nearly all from caches.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/row_operand.cuh"
#include "cuda/kernels/attention/window_parameters.cuh"
#include "cuda/kernels/bias/pooled_bias.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/rectangle.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext {

namespace device {

// What multiply_global_rows computes from rows in global memory, without a tile in shared memory:
// the dot products of 16 queries and 8 keys as fragments and, for the lane's own rows, the squared
// norms of queries and keys and the keys' dot products with a vector.
struct GlobalRowTerms {
  float product[4] = {};
  float query_square[2] = {};
  float key_square[2] = {};
  float along[2] = {};
};

template <class T>
__device__ inline T global_element(const HeadRows<T>& rows, int token, int c) {
  return c < rows.channels ? rows.element(token, c) : T{};
}

// Two neighbouring elements of 16 bits.
template <class T>
__device__ inline unsigned global_pair(const HeadRows<T>& rows, int token, int c) {
  if (rows.vectors)
    return c < rows.channels ? *reinterpret_cast<const unsigned*>(rows.row(token) + c) : 0;
  return global_element(rows, token, c).bits |
         static_cast<unsigned>(global_element(rows, token, c + 1).bits) << 16;
}

__device__ inline void global_four(const HeadRows<float>& rows, int token, int c, float (&to)[4]) {
  if (rows.vectors && c < rows.channels) {
    const float4 four = *reinterpret_cast<const float4*>(rows.row(token) + c);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = global_element(rows, token, c + i);
}

// `top` and `bottom` are the lane's rows r and r + 8 of 16. `keys` holds its two columns of 8 and
// the row of 8 that it loads as an operand. `vector` is [kMostChannels], or null: then only the dot
// products are computed.
template <class T>
__device__ inline GlobalRowTerms multiply_global_rows(const HeadRows<T>& a, int top, int bottom,
                                                      const HeadRows<T>& b, const int (&keys)[3],
                                                      const float* vector, int lane) {
  GlobalRowTerms result;
  if constexpr (OnTensorCores<T>::value) {
    const int c = lane % 4 * 2;
    float square = 0.0f, along = 0.0f;  // of the operand row, this lane's channels
#pragma unroll 1
    for (int k = c; k < c + a.channels; k += 8) {
      const unsigned operand[2] = {global_pair(a, top, k), global_pair(a, bottom, k)};
      const unsigned other[1] = {global_pair(b, keys[2], k)};
      mma_m16n8k8(result.product, operand, other, T{});
      if (vector == nullptr) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 x = floats_of<T>(operand[h]);
        result.query_square[h] += x.x * x.x + x.y * x.y;
      }
      const float2 x = floats_of<T>(other[0]);
      square += x.x * x.x + x.y * x.y;
      along += x.x * vector[k] + x.y * vector[k + 1];
    }
    if (vector == nullptr) return result;
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      result.query_square[0] += __shfl_xor_sync(0xffffffffu, result.query_square[0], distance);
      result.query_square[1] += __shfl_xor_sync(0xffffffffu, result.query_square[1], distance);
      square += __shfl_xor_sync(0xffffffffu, square, distance);
      along += __shfl_xor_sync(0xffffffffu, along, distance);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      result.key_square[i] = __shfl_sync(0xffffffffu, square, 4 * (c + i));
      result.along[i] = __shfl_sync(0xffffffffu, along, 4 * (c + i));
    }
  } else {
#pragma unroll 1
    for (int c = 0; c < a.channels; c += 4) {
      float x[4], y[4], z[2][4];
      global_four(a, top, c, x);
      global_four(a, bottom, c, y);
      global_four(b, keys[0], c, z[0]);
      global_four(b, keys[1], c, z[1]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float of_vector = vector == nullptr ? 0.0f : vector[c + k];
        result.query_square[0] += x[k] * x[k];
        result.query_square[1] += y[k] * y[k];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          result.product[i] += x[k] * z[i][k];
          result.product[2 + i] += y[k] * z[i][k];
          result.key_square[i] += z[i][k] * z[i][k];
          result.along[i] += of_vector * z[i][k];
        }
      }
    }
  }
  return result;
}

}  // namespace device

// Block (kAttentionBiasThreads), each warp loops over pooled rows. Grid: (head, image row, part of
// the pooled rows). Shared memory: one row of the table per warp, if there is a table.
template <class T>
__global__ void __launch_bounds__(kAttentionBiasThreads, 2)
    aggregated_attention_backward_bias(AggregatedAttentionBackwardLaunch launch) {
  using namespace device;
  const AggregatedAttentionBackwardParams& p = launch.params;
  const AggregatedAttentionInputs& in = p.in;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = kAttentionBiasThreads / 32;
  const int heads = static_cast<int>(in.q.shape[2]);
  const int height = static_cast<int>(in.grid.height);
  const int width = static_cast<int>(in.grid.width);
  const int pool_height = static_cast<int>(in.pool_grid.height);
  const int pool_width = static_cast<int>(in.pool_grid.width);
  const int pooled = pool_height * pool_width;
  const int head = static_cast<int>(blockIdx.x % heads);
  const int i = static_cast<int>(blockIdx.x / heads % height);
  const int parts = static_cast<int>(gridDim.x) / heads / height;
  const int part = static_cast<int>(blockIdx.x / heads / height);
  const index_t tokens = in.grid.size();
  const float scale = static_cast<const float*>(in.scale.data)[head * in.scale.stride[0]];
  const PooledBias bias(in.pool_bias, head);
  const bool dense = in.pool_bias.dense();
  const int columns = static_cast<int>(p.d_pool_bias.shape[2]);
  float* d_bias = static_cast<float*>(p.d_pool_bias.data);
  float* row = dynamic_shared<float>() + warp * columns;
  __shared__ float embedding[kMostChannels];
  for (int c = static_cast<int>(threadIdx.x); c < kMostChannels; c += kAttentionBiasThreads)
    embedding[c] = WindowParameters(in, head).embedding_of(c);
  __syncthreads();
  if (warp == 0) round_embedding<T>(embedding, kMostChannels);
  __syncthreads();

  for (int a = part * warps + warp; a < pool_height; a += parts * warps) {
    if (!dense) {
      for (int s = lane; s < columns; s += 32) row[s] = 0.0f;
      __syncwarp();
    }
    for (int first_j = 0; first_j < width; first_j += 16) {
      // The image columns of the lane's two queries, clamped to the last column.
      const auto column = [&](int h) { return first_j + 8 * h + lane / 4; };
      const auto column_within = [&](int h) { return column(h) < width ? column(h) : width - 1; };
      int n[2];
      float scaling[2];
      for (int h = 0; h < 2; ++h) {
        const int x = column_within(h);
        n[h] = i * width + x;
        scaling[h] = scale * length_scale(i, x, static_cast<int>(in.window_size), in.grid, pooled);
      }
      for (int first_b = 0; first_b < pool_width; first_b += 8) {
        // Pooled columns of the lane's two keys, and of the key that it loads as an operand.
        const auto key = [&](int e) { return first_b + (e < 2 ? lane % 4 * 2 + e : lane / 4); };
        const auto key_within = [&](int e) {
          return key(e) < pool_width ? key(e) : pool_width - 1;
        };
        int m[3];
        for (int e = 0; e < 3; ++e) m[e] = a * pool_width + key_within(e);
        float value[4];
        for (int e = 0; e < 4; ++e)
          value[e] = bias.at(i, column_within(e / 2), n[e / 2], a, key_within(e % 2), m[e % 2]);
        float gradient[4] = {};
        for (index_t batch = 0; batch < in.q.shape[0]; ++batch) {
          const auto rows_of = [&](const View<4>& view) {
            return HeadRows<T>(view, batch, head, launch.plan.vectors);
          };
          const float* log_sum_exp = static_cast<const float*>(p.log_sum_exp.data) +
                                     batch * p.log_sum_exp.stride[0] +
                                     head * p.log_sum_exp.stride[2];
          const float4* terms =
              reinterpret_cast<const float4*>(launch.workspace + launch.plan.query_terms) +
              (batch * heads + head) * tokens;
          const GlobalRowTerms logits = multiply_global_rows(
              rows_of(in.q), n[0], n[1], rows_of(in.k_pool), m, embedding, lane);
          const GlobalRowTerms weights = multiply_global_rows(rows_of(p.d_out), n[0], n[1],
                                                              rows_of(in.v_pool), m, nullptr, lane);
          const float query_norm[2] = {inverse_norm(logits.query_square[0]),
                                       inverse_norm(logits.query_square[1])};
          const float key_norm[2] = {inverse_norm(logits.key_square[0]),
                                     inverse_norm(logits.key_square[1])};
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float cosine =
                (logits.product[e] * query_norm[e / 2] + logits.along[e % 2]) * key_norm[e % 2];
            const float logit = scaling[e / 2] * cosine + value[e];
            gradient[e] += exp_fast(logit - log_sum_exp[n[e / 2] * p.log_sum_exp.stride[1]]) *
                           (weights.product[e] - terms[n[e / 2]].w);
          }
        }
        if (dense) {
          for (int e = 0; e < 4; ++e) {
            if (column(e / 2) < width && key(e % 2) < pool_width)
              d_bias[(head * tokens + n[e / 2]) * pooled + m[e % 2]] = gradient[e];
          }
          continue;
        }
        for (int writer = 0; writer < 32; ++writer) {
          if (writer == lane) {
            for (int e = 0; e < 4; ++e) {
              if (column(e / 2) >= width || key(e % 2) >= pool_width) continue;
              for (int tap = 0; tap < bias.taps(); ++tap)
                row[bias.table_column(column(e / 2), key(e % 2), tap)] +=
                    gradient[e] * bias.weight(column(e / 2), key(e % 2), tap);
            }
          }
          __syncwarp();
        }
      }
    }
    if (dense) continue;
    float* sums = launch.workspace + launch.plan.row_sums +
                  ((index_t{head} * height + i) * pool_height + a) * columns;
    for (int s = lane; s < columns; s += 32) sums[s] = row[s];
    __syncwarp();
  }
}

}  // namespace transnext
