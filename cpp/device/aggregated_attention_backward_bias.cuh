// aggregated_attention backward, the gradient of the pooled logits' bias without atomic additions:
//
//   d_pool_bias(n, m) = sum over images of d_l_m(n)
//
// Lanes hold the fragments of 16 queries of an image row i and 8 pooled keys of a pooled row a
// (device/tensor_core.cuh), with operands straight from global memory, and add over the images. A
// dense bias takes the sums as they are. For a table a warp adds them to a row of the table in shared
// memory, one lane after the other, since several may add to one entry; that row goes to the
// workspace, and aggregated_attention_backward_table_sums adds the rows of all (i, a) that share one
// of the table.
//
// Per (n, m): flops 4 d B; bytes 4 d sizeof(T) B / 8, nearly all from caches.
#pragma once

#include "device/aggregated_attention_backward_shape.h"
#include "device/math.cuh"
#include "device/pooled_bias.cuh"
#include "device/rectangle.cuh"
#include "device/token_rows.cuh"

namespace transnext {

namespace device {

// Dot products of the rows that two lanes' queries and keys make, without a tile in shared memory.
// `top`, `bottom` are the rows r and r + 8 of 16 and b the row of 8 that this lane reads as operand.
template <int kDim, class T>
__device__ inline void multiply_global_rows(const TokenRows<T>& a, index_t top, index_t bottom,
                                            const TokenRows<T>& b, const index_t (&column)[3],
                                            int lane, float (&sum)[4]) {
  const auto element = [](const TokenRows<T>& rows, index_t token, int c) {
    return c < rows.channels ? rows.data[token * rows.token_stride + c * rows.channel_stride] : T{};
  };
  if constexpr (OnTensorCores<T>::value) {
    const auto pair = [&](const TokenRows<T>& rows, index_t token, int c) {
      return element(rows, token, c).bits | static_cast<unsigned>(element(rows, token, c + 1).bits)
                                                << 16;
    };
    const int c = lane_column(lane);
#pragma unroll 1
    for (int k = 0; k < kDim; k += 8) {
      const unsigned operand[2] = {pair(a, top, k + c), pair(a, bottom, k + c)};
      const unsigned other[1] = {pair(b, column[2], k + c)};
      mma_m16n8k8(sum, operand, other, T{});
    }
  } else {
#pragma unroll 1
    for (int c = 0; c < a.channels; ++c) {
      const float x = element(a, top, c);
      const float y = element(a, bottom, c);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float z = element(b, column[i], c);
        sum[i] += x * z;
        sum[2 + i] += y * z;
      }
    }
  }
}

template <class T>
__device__ inline float global_row_inverse(const TokenRows<T>& rows, index_t token) {
  float sum = 0.0f;
#pragma unroll 1
  for (int c = 0; c < rows.channels; ++c) {
    const float x = to_float(rows.data[token * rows.token_stride + c * rows.channel_stride]);
    sum += x * x;
  }
  return 1.0f / fmaxf(sqrtf(sum), kNormEpsilon);
}

}  // namespace device

// Block (kAttentionBiasThreads), a warp per pooled row in turn. Grid: (head, image row, part of the
// pooled rows). Shared memory: for a table, a row of it per warp.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionBiasThreads, kDim <= 32 ? 2 : 1)
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
  const int channels = static_cast<int>(in.q.shape[3]);
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

  for (int a = part * warps + warp; a < pool_height; a += parts * warps) {
    if (!dense) {
      for (int s = lane; s < columns; s += 32) row[s] = 0.0f;
      __syncwarp();
    }
    for (int first_j = 0; first_j < width; first_j += 16) {
      int j[2];
      index_t n[2];
      float scaling[2];
      for (int h = 0; h < 2; ++h) {
        j[h] = first_j + 8 * h + lane_row(lane);
        const int x = j[h] < width ? j[h] : width - 1;
        n[h] = index_t{i} * width + x;
        scaling[h] = scale * length_scale(i, x, static_cast<int>(in.window_size), in.grid, pooled);
      }
      for (int first_b = 0; first_b < pool_width; first_b += 8) {
        // Of the lane's two keys, and of the one that it brings as an operand.
        int b[3];
        index_t m[3];
        for (int e = 0; e < 3; ++e) {
          b[e] = first_b + (e < 2 ? lane_column(lane) + e : lane_row(lane));
          m[e] = index_t{a} * pool_width + (b[e] < pool_width ? b[e] : pool_width - 1);
        }
        float value[4];
        for (int e = 0; e < 4; ++e)
          value[e] = bias.at(i, j[e / 2] < width ? j[e / 2] : width - 1, n[e / 2], a,
                             b[e % 2] < pool_width ? b[e % 2] : pool_width - 1,
                             static_cast<int>(m[e % 2]));
        float gradient[4] = {};
        for (index_t batch = 0; batch < in.q.shape[0]; ++batch) {
          const TokenRows<T> queries(in.q, batch, head);
          const TokenRows<T> keys(in.k_pool, batch, head);
          const float* log_sum_exp = static_cast<const float*>(p.log_sum_exp.data) +
                                     batch * p.log_sum_exp.stride[0] +
                                     head * p.log_sum_exp.stride[2];
          const float* delta =
              launch.workspace + launch.plan.delta + (batch * heads + head) * tokens;
          float product[4] = {}, d_weight[4] = {};
          multiply_global_rows<kDim>(queries, n[0], n[1], keys, m, lane, product);
          multiply_global_rows<kDim>(TokenRows<T>(p.d_out, batch, head), n[0], n[1],
                                     TokenRows<T>(in.v_pool, batch, head), m, lane, d_weight);
          const float query_inverse[2] = {global_row_inverse(queries, n[0]),
                                          global_row_inverse(queries, n[1])};
          float inverse[2], embedded[2] = {};
          for (int e = 0; e < 2; ++e) {
            inverse[e] = global_row_inverse(keys, m[e]);
#pragma unroll 1
            for (int c = 0; in.query_embedding.present() && c < channels; ++c)
              embedded[e] +=
                  to_float(keys.data[m[e] * keys.token_stride + c * keys.channel_stride]) *
                  static_cast<const float*>(
                      in.query_embedding.data)[head * in.query_embedding.stride[0] +
                                               c * in.query_embedding.stride[1]];
          }
          for (int e = 0; e < 4; ++e) {
            const float logit = scaling[e / 2] *
                                    (product[e] * query_inverse[e / 2] + embedded[e % 2]) *
                                    inverse[e % 2] +
                                value[e];
            gradient[e] += exp_fast(logit - log_sum_exp[n[e / 2] * p.log_sum_exp.stride[1]]) *
                           (d_weight[e] - delta[n[e / 2]]);
          }
        }
        if (dense) {
          for (int e = 0; e < 4; ++e) {
            if (j[e / 2] < width && b[e % 2] < pool_width)
              d_bias[(head * tokens + n[e / 2]) * pooled + m[e % 2]] = gradient[e];
          }
          continue;
        }
        for (int turn = 0; turn < 32; ++turn) {
          if (turn == lane) {
            for (int e = 0; e < 4; ++e) {
              if (j[e / 2] >= width || b[e % 2] >= pool_width) continue;
              for (int tap = 0; tap < bias.taps(); ++tap)
                row[bias.table_column(j[e / 2], b[e % 2], tap)] +=
                    gradient[e] * bias.weight(j[e / 2], b[e % 2], tap);
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
