// Operands of tensor cores from tiles of rows of Half or BFloat16 in shared memory
// (cuda/kernels/attention/row_gemm.cuh), loaded with a few instructions for all channels, and the
// GEMMs of attention's backward on them.
#pragma once

#include "cuda/kernels/attention/row_gemm.cuh"

namespace transnext::device {

// Rows r and r + 8 of 16 as the left operand of a GEMM along the channels.
template <class T, int kDim>
struct LeftRows {
  unsigned top[kDim / 8], bottom[kDim / 8];  // channels 8 i + c, 8 i + c + 1

  __device__ LeftRows(const T* top_row, const T* bottom_row, int lane) {
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      top[i] = two_elements(top_row + 8 * i + lane_column(lane));
      bottom[i] = two_elements(bottom_row + 8 * i + lane_column(lane));
    }
  }

  // `own` is the row of the 16 that the lane loads, lane % 16.
  __device__ LeftRows(const T* own, int lane) {
    own += static_cast<unsigned>(lane) / 16 * 8;
#pragma unroll
    for (int i = 0; i + 1 < kDim / 8; i += 2) {
      unsigned four[4];
      ldmatrix_x4(four, own + 8 * i);
      top[i] = four[0];
      bottom[i] = four[1];
      top[i + 1] = four[2];
      bottom[i + 1] = four[3];
    }
    if constexpr (kDim % 16 == 8) {
      unsigned two[2];
      ldmatrix_x2(two, own + kDim - 8);
      top[kDim / 8 - 1] = two[0];
      bottom[kDim / 8 - 1] = two[1];
    }
  }
};

template <class T>
struct LeftRows<T, 0> {
  __device__ LeftRows(const T*, const T*, int) {}
};

// 16 neighbouring rows as right operands: of[t][i] holds the channels 8 i .. 8 i + 7 of the rows 8
// t .. 8 t + 7, as stored for GEMMs along the channels, transposed for GEMMs along the rows.
template <class T, int kDim>
struct RightRows {
  static constexpr int kChunks = kDim / 8;
  unsigned of[2][kChunks];
};

// Loads RightRows of many tiles, from offsets that a lane computes once.
template <class T, int kDim>
class RightRowsLoader {
 public:
  __device__ explicit RightRowsLoader(int lane) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const auto own = static_cast<unsigned>(lane);
      const unsigned matrix = (4 * g + own / 8) % (2 * kChunks);
      offset_[g] = static_cast<int>((matrix / kChunks * 8 + own % 8) * row_stride<T>(kDim) +
                                    matrix % kChunks * 8);
    }
  }

  __device__ RightRows<T, kDim> load(const T* rows) const { return load<false>(rows); }
  __device__ RightRows<T, kDim> load_transposed(const T* rows) const { return load<true>(rows); }

 private:
  static constexpr int kChunks = kDim / 8;
  static constexpr int kGroups =
      (2 * kChunks + 3) / 4;  // of four matrices; the last group may have two

  template <bool kTransposed>
  __device__ RightRows<T, kDim> load(const T* rows) const {
    RightRows<T, kDim> result;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const T* row = rows + offset_[g];
      unsigned four[4];
      if (4 * g + 4 <= 2 * kChunks) {
        if constexpr (kTransposed)
          ldmatrix_x4_trans(four, row);
        else
          ldmatrix_x4(four, row);
      } else {
        unsigned two[2];
        if constexpr (kTransposed)
          ldmatrix_x2_trans(two, row);
        else
          ldmatrix_x2(two, row);
        four[0] = two[0];
        four[1] = two[1];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int matrix = 4 * g + i;
        if (matrix < 2 * kChunks) result.of[matrix / kChunks][matrix % kChunks] = four[i];
      }
    }
    return result;
  }

  int offset_[kGroups];
};

template <class T>
class RightRowsLoader<T, 0> {
 public:
  __device__ explicit RightRowsLoader(int) {}
};

// sum += left right^T, 16 by 8.
template <class T, int kDim>
__device__ inline void multiply_rows(const LeftRows<T, kDim>& left,
                                     const unsigned (&right)[kDim / 8], float (&sum)[4]) {
#pragma unroll
  for (int i = 0; i + 1 < kDim / 8; i += 2) {
    const unsigned a[4] = {left.top[i], left.bottom[i], left.top[i + 1], left.bottom[i + 1]};
    const unsigned b[2] = {right[i], right[i + 1]};
    mma_m16n8k16(sum, a, b, T{});
  }
  if constexpr (kDim % 16 == 8) {
    constexpr int i = kDim / 8 - 1;
    const unsigned a[2] = {left.top[i], left.bottom[i]};
    const unsigned b[1] = {right[i]};
    mma_m16n8k8(sum, a, b, T{});
  }
}

// The same, 16 by 16.
template <class T, int kDim>
__device__ inline void multiply_rows(const LeftRows<T, kDim>& left, const RightRows<T, kDim>& right,
                                     float (&sum)[2][4]) {
#pragma unroll
  for (int t = 0; t < 2; ++t) multiply_rows(left, right.of[t], sum[t]);
}

// sum += weights rows: weights [16 x 16] rounded to T, rows transposed.
template <class T, int kDim>
__device__ inline void multiply_weights(const float (&weights)[2][4],
                                        const RightRows<T, kDim>& rows, float (&sum)[kDim / 8][4]) {
  const unsigned a[4] = {
      pack<T>(weights[0][0], weights[0][1]), pack<T>(weights[0][2], weights[0][3]),
      pack<T>(weights[1][0], weights[1][1]), pack<T>(weights[1][2], weights[1][3])};
#pragma unroll
  for (int i = 0; i < kDim / 8; ++i) {
    const unsigned b[2] = {rows.of[0][i], rows.of[1][i]};
    mma_m16n8k16(sum[i], a, b, T{});
  }
}

// The bits of a TF32: half a unit in its last place is added, and the MMA ignores the rest.
__device__ inline unsigned tensor_float_bits(float x) {
  return float_to_bits(x) + 0x1000u;
}

// The same with the weights rounded to TF32, which has the range of float. A lane's two neighbours
// along the depth, in the weights and in the rows, are depths c and c + 4 of the MMA.
template <class T, int kDim>
__device__ inline void multiply_wide_weights(const float (&weights)[4],
                                             const unsigned (&rows)[kDim / 8],
                                             float (&sum)[kDim / 8][4]) {
  const unsigned a[4] = {tensor_float_bits(weights[0]), tensor_float_bits(weights[2]),
                         tensor_float_bits(weights[1]), tensor_float_bits(weights[3])};
#pragma unroll
  for (int i = 0; i < kDim / 8; ++i) {
    const float2 row = floats_of<T>(rows[i]);
    const unsigned b[2] = {float_to_bits(row.x), float_to_bits(row.y)};
    mma_m16n8k8(sum[i], a, b, TensorFloat32{});
  }
}

}  // namespace transnext::device
