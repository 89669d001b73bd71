// Products of rows in shared memory by one warp, 16 rows by 8 at a time, and sums of rows weighted by
// such products. Half and BFloat16 multiply on tensor cores (row_operand.cuh), float with fused
// multiply-adds, both into the same fragments (cuda/kernels/common/tensor_core.cuh): with r = lane / 4
// and c = lane % 4, a lane has the rows r and r + 8, and of each 8 rows on the right c and c + 4.
#pragma once

#include "cuda/kernels/attention/row_operand.cuh"

namespace transnext::device {

// The row on the right, of 8, in column `index` of a product: lanes that read together then read
// neighbouring rows' terms.
__device__ inline int product_row(int index) {
  return index / 2 + index % 2 * 4;
}

template <class T, int kDim>
struct RowProducts {
  using Rows = SharedRows<T, kDim, false>;
  using Operand = RowOperand<T, kDim>;

  // Addresses of a lane's part, which the same rows further on follow from: of 16 rows, of which row i is
  // `row_of(i)`,
  struct Left {
    const Vector16<T>* from;

    template <class RowOf>
    __device__ Left(const Rows& rows, const RowOf& row_of)
        : from(rows.vector(row_of(thread_index() % 16), thread_index() % 32 / 16)) {}
  };
  // and of rows from `first` on, a multiple of 8.
  struct Right {
    const Vector16<T>* from;

    __device__ Right(const Rows& rows, int first)
        : from(Operand::keys_of(rows, first + product_row(thread_index() % 8), thread_index())) {}
    __device__ void move(int rows) { from += rows * Rows::kRowBytes / kVector16Bytes; }
  };

  Operand left;

  __device__ explicit RowProducts(const Left& rows, int further = 0) {
    left.load(rows.from + further * Rows::kRowBytes / kVector16Bytes);
  }

  // products += left right^T, of the right operand's 8 rows from 8 t on,
  __device__ void multiply(const Right& right, int t, float (&products)[4]) const {
    left.multiply(products, right.from + t * 8 * Rows::kRowBytes / kVector16Bytes);
  }
  // and of its first 8 kTiles.
  template <int kTiles>
  __device__ void multiply(const Right& right, float (&products)[kTiles][4]) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) multiply(right, t, products[t]);
  }
};

template <int kDim>
struct RowProducts<float, kDim> {
  using Rows = SharedRows<float, kDim, false>;

  struct Left {
    const float4* top;
    const float4* bottom;

    template <class RowOf>
    __device__ Left(const Rows& rows, const RowOf& row_of)
        : top(rows.four(row_of(thread_index() % 32 / 4))),
          bottom(rows.four(row_of(thread_index() % 32 / 4 + 8))) {}
  };
  struct Right {
    const float4* from;

    __device__ Right(const Rows& rows, int first) : from(rows.four(first + thread_index() % 4)) {}
    __device__ void move(int rows) { from += rows * Rows::kRowBytes / kVector16Bytes; }
  };

  const float4* top;
  const float4* bottom;

  __device__ explicit RowProducts(const Left& rows, int further = 0)
      : top(rows.top + further * Rows::kRowBytes / kVector16Bytes),
        bottom(rows.bottom + further * Rows::kRowBytes / kVector16Bytes) {}

  template <int kTiles>
  __device__ void multiply(const Right& right, float (&products)[kTiles][4]) const {
#pragma unroll 1
    for (int v = 0; v < Rows::kRowVectors16; ++v) {
      const float4 x = top[v];
      const float4 y = bottom[v];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 z = right.from[(8 * t + 4 * i) * Rows::kRowBytes / kVector16Bytes + v];
          products[t][i] += x.x * z.x;
          products[t][i] += x.y * z.y;
          products[t][i] += x.z * z.z;
          products[t][i] += x.w * z.w;
          products[t][2 + i] += y.x * z.x;
          products[t][2 + i] += y.y * z.y;
          products[t][2 + i] += y.z * z.z;
          products[t][2 + i] += y.w * z.w;
        }
      }
    }
  }
};

// Sums of rows from `first` on, a multiple of 8. Sum [i][e] of a lane is of channel 8 i + 2 c + e % 2, of its
// left row e / 2.
template <class T, int kDim>
struct WeightedRows {
  using Rows = SharedRows<T, kDim, false>;
  static constexpr int kChunks = kDim / 8;

  const Vector16<T>* from;

  __device__ WeightedRows(const Rows& rows, int first)
      : from(values_of(rows, first + product_row(thread_index() % 8) + thread_index() / 8 % 2 * 8,
                       thread_index())) {}
  __device__ void move(int rows) { from += rows * Rows::kRowBytes / kVector16Bytes; }

  // sum += weights rows, of the 16 rows from 8 t on: weights rounded to T,
  __device__ void add(int t, const float (&first)[4], const float (&second)[4],
                      float (&sum)[kChunks][4]) const {
    const unsigned weights[4] = {pack<T>(first[0], first[1]), pack<T>(first[2], first[3]),
                                 pack<T>(second[0], second[1]), pack<T>(second[2], second[3])};
    multiply_values<T, kChunks>(sum, weights, tile(t));
  }
  // of 8 rows,
  __device__ void add(int t, const float (&weights)[4], float (&sum)[kChunks][4]) const {
    const unsigned of_eight[2] = {pack<T>(weights[0], weights[1]), pack<T>(weights[2], weights[3])};
    multiply_values<T, kChunks>(sum, of_eight, tile(t));
  }
  // and, of 16, rounded to TF32, which has the range of float.
  __device__ void add_wide(int t, const float (&first)[4], const float (&second)[4],
                           float (&sum)[kChunks][4]) const {
    const auto add = [&](int chunk, const float (&weights)[4], unsigned rows) {
      const unsigned a[4] = {bits_of(weights[0]), bits_of(weights[2]), bits_of(weights[1]),
                             bits_of(weights[3])};
      const float2 two = floats_of<T>(rows);
      mma_m16n8k8(sum[chunk], a, {float_to_bits(two.x), float_to_bits(two.y)}, TensorFloat32{});
    };
#pragma unroll
    for (int i = 0; i < kChunks; i += 2) {
      unsigned rows[4];
      if (i + 1 < kChunks) {
        ldmatrix_x4_trans(rows, tile(t) + i);
      } else {
        unsigned last[2];
        ldmatrix_x2_trans(last, tile(t) + i);
        rows[0] = last[0];
        rows[1] = last[1];
      }
      add(i, first, rows[0]);
      add(i, second, rows[1]);
      if (i + 1 >= kChunks) continue;
      add(i + 1, first, rows[2]);
      add(i + 1, second, rows[3]);
    }
  }

 private:
  __device__ const Vector16<T>* tile(int t) const {
    return from + t * 8 * Rows::kRowBytes / kVector16Bytes;
  }
  // Half a unit in the last place is added, and the MMA ignores what follows.
  static __device__ unsigned bits_of(float x) { return float_to_bits(x) + 0x1000u; }
};

template <int kDim>
struct WeightedRows<float, kDim> {
  using Rows = SharedRows<float, kDim, false>;
  static constexpr int kChunks = kDim / 8;

  const float2* from;

  __device__ WeightedRows(const Rows& rows, int first)
      : from(reinterpret_cast<const float2*>(rows.four(first)) + thread_index() % 4) {}
  __device__ void move(int rows) { from += rows * Rows::kRowBytes / 8; }

  __device__ void add(int t, const float (&first)[4], const float (&second)[4],
                      float (&sum)[kChunks][4]) const {
    add(t, first, sum);
    add(t + 1, second, sum);
  }
  __device__ void add(int t, const float (&weights)[4], float (&sum)[kChunks][4]) const {
#pragma unroll(kDim <= 32 ? 4 : 1)
    for (int row = 0; row < 4; ++row) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = __shfl_sync(0xffffffffu, weights[i], row, 4);
        const float y = __shfl_sync(0xffffffffu, weights[2 + i], row, 4);
        const float2* channels = from + (8 * t + 4 * i + row) * Rows::kRowBytes / 8;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          const float2 z = channels[4 * c];
          sum[c][0] += x * z.x;
          sum[c][1] += x * z.y;
          sum[c][2] += y * z.x;
          sum[c][3] += y * z.y;
        }
      }
    }
  }
  __device__ void add_wide(int t, const float (&first)[4], const float (&second)[4],
                           float (&sum)[kChunks][4]) const {
    add(t, first, second, sum);
  }
};

}  // namespace transnext::device
