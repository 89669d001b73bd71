// aggregated_attention backward, second stages: add the partial sums that blocks left in the
// workspace, in a fixed order, with arithmetic in C (float). Bytes: each partial sum once, each
// gradient once.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/common/math.cuh"

namespace transnext {

// d_scale, d_query_embedding, d_local_bias, d_token_bias, d_tokens of a head: the sums of its
// blocks. Block (kAttentionSumLanes, kAttentionSumRows): lanes run along the elements, rows of
// threads split the partial sums and combine in shared memory. Grid: (elements, head), elements
// fastest.
template <class C>
__global__ void aggregated_attention_backward_parameter_sums(
    AggregatedAttentionBackwardLaunch launch) {
  __shared__ C partial_sums[kAttentionSumRows][kAttentionSumLanes];
  const AggregatedAttentionBackwardParams& p = launch.params;
  const int size = launch.plan.parameters;
  const unsigned groups =
      static_cast<unsigned>((size + kAttentionSumLanes - 1) / kAttentionSumLanes);
  const index_t head = blockIdx.x / groups;
  const int element = static_cast<int>(blockIdx.x % groups * kAttentionSumLanes + threadIdx.x);
  const index_t heads = p.in.q.shape[2];
  const index_t parts = p.in.q.shape[0] * launch.plan.tiles_y * launch.plan.tiles_x;
  const float* sums = launch.workspace + launch.plan.parameter_sums + head * size;
  C sum = 0;
  if (element < size) {
    for (index_t part = threadIdx.y; part < parts; part += kAttentionSumRows)
      sum += sums[part * heads * size + element];
  }
  partial_sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || element >= size) return;
  for (int row = 1; row < kAttentionSumRows; ++row) sum += partial_sums[row][threadIdx.x];

  const int channels = static_cast<int>(p.in.q.shape[3]);
  const int cells = static_cast<int>(p.in.window_size * p.in.window_size);
  const auto store = [=](const View<2>& view, int i) {
    if (view.present())
      static_cast<C*>(view.data)[head * view.stride[0] + i * view.stride[1]] = sum;
  };
  const int from_local = element - 1 - channels;
  const int from_tokens = from_local - 2 * cells;
  if (element == 0) {
    if (p.d_scale.present()) static_cast<C*>(p.d_scale.data)[head * p.d_scale.stride[0]] = sum;
  } else if (from_local < 0) {
    store(p.d_query_embedding, element - 1);
  } else if (from_local < cells) {
    store(p.d_local_bias, from_local);
  } else if (from_tokens < 0) {
    store(p.d_token_bias, from_local - cells);
  } else {
    static_cast<C*>(p.d_tokens.data)[head * p.d_tokens.stride[0] +
                                     from_tokens % channels * p.d_tokens.stride[1] +
                                     from_tokens / channels * p.d_tokens.stride[2]] = sum;
  }
}

// d_k_pool, through the normalisation, and d_v_pool: the sums over the slices. Block
// (kAttentionSumLanes, kAttentionSumRows), a warp per pooled key. Grid: pooled keys of all images
// and heads.
template <class T>
__global__ void aggregated_attention_backward_pooled_sums(
    AggregatedAttentionBackwardLaunch launch) {
  constexpr int kLaneChannels = 4;  // channels up to 128
  const AggregatedAttentionBackwardParams& p = launch.params;
  const AggregatedAttentionInputs& in = p.in;
  const int lane = static_cast<int>(threadIdx.x);
  const index_t pooled = in.k_pool.shape[1];
  const int channels = static_cast<int>(in.q.shape[3]);
  const index_t rows = in.q.shape[0] * in.q.shape[2] * pooled;
  const index_t row = index_t{blockIdx.x} * kAttentionSumRows + threadIdx.y;
  if (row >= rows) return;
  const int m = static_cast<int>(row % pooled);
  const index_t head = row / pooled % in.q.shape[2];
  const index_t batch = row / pooled / in.q.shape[2];
  const float* sums = launch.workspace + launch.plan.pooled_sums + row * 2 * channels;
  const auto rows_of = [&](const View<4>& view) {
    return device::HeadRows<T>(view, batch, head, launch.plan.vectors);
  };
  float gradient[kLaneChannels] = {}, key[kLaneChannels] = {};
  float square = 0.0f, along = 0.0f;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    const int c = lane + 32 * i;
    if (c >= channels) continue;
    float d_value = 0.0f;
#pragma unroll 4
    for (int slice = 0; slice < launch.plan.slices; ++slice) {
      gradient[i] += sums[slice * rows * 2 * channels + c];
      d_value += sums[slice * rows * 2 * channels + channels + c];
    }
    if (p.d_v_pool.present()) from_float(d_value, rows_of(p.d_v_pool).element(m, c));
    key[i] = to_float(rows_of(in.k_pool).element(m, c));
    square += key[i] * key[i];
    along += key[i] * gradient[i];
  }
  if (!p.d_k_pool.present()) return;
  const float norm = sqrtf(device::warp_sum(square));
  const float inverse = device::inverse_length(norm);
  along = device::warp_sum(along) * inverse;
  if (norm <= device::kNormEpsilon) along = 0.0f;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    const int c = lane + 32 * i;
    if (c < channels)
      from_float((gradient[i] - key[i] * inverse * along) * inverse,
                 rows_of(p.d_k_pool).element(m, c));
  }
}

// The table's gradient: zero before atomic additions, or the sum over the rows of (i, a) in the
// workspace. Block (kAttentionSumLanes kAttentionSumRows): a thread per entry. Grid: entries of
// [h, R, S].
template <class C>
__global__ void aggregated_attention_backward_table_sums(AggregatedAttentionBackwardLaunch launch) {
  const AggregatedAttentionBackwardParams& p = launch.params;
  const View<2>& map = p.in.pool_bias.row_map;
  const index_t table_rows = p.d_pool_bias.shape[1];
  const index_t columns = p.d_pool_bias.shape[2];
  const index_t entry = index_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (entry >= p.d_pool_bias.shape[0] * table_rows * columns) return;
  C sum = 0;
  if (!launch.plan.table_atomics) {
    const index_t column = entry % columns;
    const int table_row = static_cast<int>(entry / columns % table_rows);
    const int height = static_cast<int>(p.in.grid.height);
    const int pool_height = static_cast<int>(p.in.pool_grid.height);
    const float* rows = launch.workspace + launch.plan.row_sums +
                        entry / columns / table_rows * height * pool_height * columns + column;
    for (int i = 0; i < height; ++i) {
      for (int a = 0; a < pool_height; ++a) {
        const int of = static_cast<const int*>(map.data)[i * map.stride[0] + a * map.stride[1]];
        if (of == table_row) sum += rows[(index_t{i} * pool_height + a) * columns];
      }
    }
  }
  static_cast<C*>(p.d_pool_bias.data)[entry] = sum;
}

}  // namespace transnext
