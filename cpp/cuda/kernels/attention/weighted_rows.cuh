// Sums of rows in shared memory, weighted by fragments that a warp holds
// (cuda/kernels/attention/row_gemm.cuh):
//
//   sum(n) = sum_m weights(n, m) rows(m),  for 16 n and 16 m at a time.
//
// Tensor cores produce the sums as fragments. With float and few channels each lane adds the rows
// of its own m, for both of its n, and the four lanes of an n combine at the end.
#pragma once

#include "cuda/kernels/attention/row_gemm.cuh"

namespace transnext::device {

template <class T, int kDim, bool kOwnRows = !OnTensorCores<T>::value && kDim <= 32>
class WeightedRows {
 public:
  // `weights` of the first 8 rows and `others` of the next 8. Without others, 8 more rows must
  // still be readable.
  __device__ void add(const float (&weights)[4], const float (&others)[4], const T* rows,
                      int lane) {
    multiply_weights<kDim>(weights, others, rows, lane, sum_);
  }

  __device__ void add(const float (&weights)[4], const T* rows, int lane) {
    const float none[4] = {};
    multiply_weights<kDim>(weights, none, rows, lane, sum_);
  }

  // The first `count` of the 16 sums, times the factors of the lane's two, to `target` [16][kDim]
  // in shared memory. The warp must synchronise before it reads them.
  __device__ void store(int lane, int count, const float (&factor)[2], float* target) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int n = lane_row(lane) + 8 * h;
      if (n >= count) continue;
#pragma unroll
      for (int t = 0; t < kDim / 8; ++t)
        *reinterpret_cast<float2*>(target + n * kDim + t * 8 + lane_column(lane)) =
            float2{sum_[t][2 * h] * factor[h], sum_[t][2 * h + 1] * factor[h]};
    }
  }

 private:
  float sum_[kDim / 8][4] = {};
};

template <class T, int kDim>
class WeightedRows<T, kDim, true> {
 public:
  __device__ void add(const float (&weights)[4], const float (&others)[4], const T* rows,
                      int lane) {
    add(weights, rows, lane);
    add(others, rows + 8 * row_stride<T>(kDim), lane);
  }

  __device__ void add(const float (&weights)[4], const T* rows, int lane) {
    rows += lane_column(lane) * row_stride<T>(kDim);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int c = 0; c < kDim; c += 4) {
        const float4 x = *reinterpret_cast<const float4*>(rows + i * row_stride<T>(kDim) + c);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          sum_[h][c] += weights[2 * h + i] * x.x;
          sum_[h][c + 1] += weights[2 * h + i] * x.y;
          sum_[h][c + 2] += weights[2 * h + i] * x.z;
          sum_[h][c + 3] += weights[2 * h + i] * x.w;
        }
      }
    }
  }

  __device__ void store(int lane, int count, const float (&factor)[2], float* target) const {
#pragma unroll 1
    for (int step = 0; step < 4; ++step) {
      if (lane % 4 == step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int n = lane_row(lane) + 8 * h;
          if (n >= count) continue;
#pragma unroll
          for (int c = 0; c < kDim; c += 4) {
            float4* to = reinterpret_cast<float4*>(target + n * kDim + c);
            float4 sum = step == 0 ? float4{0.0f, 0.0f, 0.0f, 0.0f} : *to;
            sum.x += sum_[h][c] * factor[h];
            sum.y += sum_[h][c + 1] * factor[h];
            sum.z += sum_[h][c + 2] * factor[h];
            sum.w += sum_[h][c + 3] * factor[h];
            *to = sum;
          }
        }
      }
      __syncwarp();
    }
  }

 private:
  float sum_[2][kDim] = {};
};

}  // namespace transnext::device
