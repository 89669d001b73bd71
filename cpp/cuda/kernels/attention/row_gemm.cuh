// The GEMMs of attention over tiles of rows (token vectors of one head) in shared memory, by one
// warp: rows times rows, and weights held in registers times rows. Half and BFloat16 multiply on
// tensor cores, float with fused multiply-adds, both into the same fragments
// (cuda/kernels/common/tensor_core.cuh): with r = lane / 4 and c = 2 (lane % 4), sum[t] holds (r, 8
// t + c), (r, 8 t + c + 1), (r + 8, 8 t + c), (r + 8, 8 t + c + 1) of 16 rows.
//
// Rows are row_stride<T>(kDim) elements apart, an odd multiple of 16 bytes, so the same channels of
// eight rows lie in different banks.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/shape.h"
#include "cuda/kernels/common/tensor_core.cuh"
#include "cuda/kernels/common/vec8.cuh"

namespace transnext::device {

template <class T>
TRANSNEXT_INLINE constexpr int row_stride(int channels) {
  return row_bytes(channels, sizeof(T)) / static_cast<int>(sizeof(T));
}

// Unsigned: a compiler that does not know the sign of a lane needs three more instructions.
__device__ inline int lane_row(int lane) {
  return static_cast<int>(static_cast<unsigned>(lane) / 4);
}
__device__ inline int lane_column(int lane) {
  return static_cast<int>(static_cast<unsigned>(lane) % 4 * 2);
}

__device__ inline unsigned two_elements(const void* at) {
  return *static_cast<const unsigned*>(at);
}

// sum += a b^T. `top` and `bottom` are the lane's rows r and r + 8 of a; b has 8 kTiles rows.
template <int kDim, int kTiles, class T>
__device__ inline void multiply_rows(const T* top, const T* bottom, const T* b, int lane,
                                     float (&sum)[kTiles][4]) {
  constexpr int stride = row_stride<T>(kDim);
  const int c = lane_column(lane);
  if constexpr (OnTensorCores<T>::value) {
    b += lane_row(lane) * stride + c;
#pragma unroll
    for (int k = 0; k + 16 <= kDim; k += 16) {
      const unsigned a[4] = {two_elements(top + k + c), two_elements(bottom + k + c),
                             two_elements(top + k + 8 + c), two_elements(bottom + k + 8 + c)};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const unsigned column[2] = {two_elements(b + t * 8 * stride + k),
                                    two_elements(b + t * 8 * stride + k + 8)};
        mma_m16n8k16(sum[t], a, column, T{});
      }
    }
    if constexpr (kDim % 16 == 8) {
      constexpr int k = kDim - 8;
      const unsigned a[2] = {two_elements(top + k + c), two_elements(bottom + k + c)};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const unsigned column[1] = {two_elements(b + t * 8 * stride + k)};
        mma_m16n8k8(sum[t], a, column, T{});
      }
    }
  } else {
    b += c * stride;
#pragma unroll 1
    for (int k = 0; k < kDim; k += 4) {
      const float4 x = *reinterpret_cast<const float4*>(top + k);
      const float4 y = *reinterpret_cast<const float4*>(bottom + k);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 z = *reinterpret_cast<const float4*>(b + (t * 8 + i) * stride + k);
          sum[t][i] += x.x * z.x;
          sum[t][i] += x.y * z.y;
          sum[t][i] += x.z * z.z;
          sum[t][i] += x.w * z.w;
          sum[t][2 + i] += y.x * z.x;
          sum[t][2 + i] += y.y * z.y;
          sum[t][2 + i] += y.z * z.z;
          sum[t][2 + i] += y.w * z.w;
        }
      }
    }
  }
}

// sum += weights rows, with a left operand of weights [16 x 16] of 16 bits. `own` is the row of the
// 16 that the lane loads, lane % 16.
template <class T, int kChunks>
__device__ inline void multiply_operand(const unsigned (&weights)[4], const T* own, int lane,
                                        float (&sum)[kChunks][4]) {
  own += static_cast<unsigned>(lane) / 16 * 8;  // lanes from 16 on load the next eight channels
#pragma unroll
  for (int i = 0; i + 1 < kChunks; i += 2) {
    unsigned right[4];
    ldmatrix_x4_trans(right, own + 8 * i);
    mma_m16n8k16(sum[i], weights, {right[0], right[1]}, T{});
    mma_m16n8k16(sum[i + 1], weights, {right[2], right[3]}, T{});
  }
  if constexpr (kChunks % 2 == 1) {
    unsigned right[2];
    ldmatrix_x2_trans(right, own + 8 * (kChunks - 1));
    mma_m16n8k16(sum[kChunks - 1], weights, right, T{});
  }
}

// sum += weights b: weights [16 x 16] as fragments of the first 8 and of the other columns, b has 16
// rows.
template <int kDim, class T>
__device__ inline void multiply_weights(const float (&weights)[4], const float (&others)[4],
                                        const T* b, int lane, float (&sum)[kDim / 8][4]) {
  constexpr int stride = row_stride<T>(kDim);
  if constexpr (OnTensorCores<T>::value) {
    const unsigned a[4] = {pack<T>(weights[0], weights[1]), pack<T>(weights[2], weights[3]),
                           pack<T>(others[0], others[1]), pack<T>(others[2], others[3])};
    multiply_operand(a, b + static_cast<unsigned>(lane) % 16 * stride, lane, sum);
  } else {
    b += lane_column(lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll 1
      for (int pair = 0; pair < 4; ++pair) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float (&own)[4] = half == 0 ? weights : others;
          const float x = __shfl_sync(0xffffffffu, own[i], lane / 4 * 4 + pair);
          const float y = __shfl_sync(0xffffffffu, own[2 + i], lane / 4 * 4 + pair);
          const T* row = b + (half * 8 + pair * 2 + i) * stride;
#pragma unroll
          for (int t = 0; t < kDim / 8; ++t) {
            const float2 z = *reinterpret_cast<const float2*>(row + t * 8);
            sum[t][0] += x * z.x;
            sum[t][1] += x * z.y;
            sum[t][2] += y * z.x;
            sum[t][3] += y * z.y;
          }
        }
      }
    }
  }
}

// The same for floats, with the weights staged in shared memory, 16 rows of
// kAttentionStagedWeights: cheaper than shuffles.
template <int kDim>
__device__ inline void multiply_weights(const float (&weights)[4], const float (&others)[4],
                                        const float* b, int lane, float* stage,
                                        float (&sum)[kDim / 8][4]) {
  constexpr int stride = row_stride<float>(kDim);
  float* top = stage + lane_row(lane) * kAttentionStagedWeights;
  float* bottom = top + 8 * kAttentionStagedWeights;
  const int column = lane_column(lane);
  __syncwarp();
  *reinterpret_cast<float2*>(top + column) = float2{weights[0], weights[1]};
  *reinterpret_cast<float2*>(top + 8 + column) = float2{others[0], others[1]};
  *reinterpret_cast<float2*>(bottom + column) = float2{weights[2], weights[3]};
  *reinterpret_cast<float2*>(bottom + 8 + column) = float2{others[2], others[3]};
  __syncwarp();
  b += column;
#pragma unroll 2
  for (int m = 0; m < 16; m += 4) {
    const float4 x = *reinterpret_cast<const float4*>(top + m);
    const float4 y = *reinterpret_cast<const float4*>(bottom + m);
    const float above[4] = {x.x, x.y, x.z, x.w};
    const float below[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int t = 0; t < kDim / 8; ++t) {
        const float2 z = *reinterpret_cast<const float2*>(b + (m + i) * stride + t * 8);
        sum[t][0] += above[i] * z.x;
        sum[t][1] += above[i] * z.y;
        sum[t][2] += below[i] * z.x;
        sum[t][3] += below[i] * z.y;
      }
    }
  }
}

}  // namespace transnext::device
