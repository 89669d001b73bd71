// Rows of Half or BFloat16 in shared memory as operands of tensor cores, and their lengths.
#pragma once

#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

// 16 rows as the left operand of MMAs.
template <class T, int kDim>
struct RowOperand {
  static constexpr int kRowVectors16 = kDim / 8;  // of 8 channels

  unsigned parts[kRowVectors16][2];

  // The address of a lane's part of the rows from `first` on.
  __device__ static const Vector16<T>* rows_of(const SharedRows<T, kDim>& rows, int first,
                                               int lane) {
    return rows.vector(first + lane % 16, lane / 16);
  }

  __device__ void load(const SharedRows<T, kDim>& rows, int first) {
    load(rows_of(rows, first, thread_index() % 32));
  }
  __device__ void load(const Vector16<T>* from) {
#pragma unroll
    for (int p = 0; p + 1 < kRowVectors16; p += 2) {
      unsigned four[4];
      ldmatrix_x4(four, from + p);
      parts[p][0] = four[0];
      parts[p][1] = four[1];
      parts[p + 1][0] = four[2];
      parts[p + 1][1] = four[3];
    }
    if constexpr (kRowVectors16 % 2 != 0)
      ldmatrix_x2(parts[kRowVectors16 - 1], from + kRowVectors16 - 1);
  }

  // The address of a lane's part of 8 keys, where `row` is its key: lanes i, i + 8, i + 16 and i +
  // 24 load key i.
  template <class Rows>
  __device__ static const Vector16<T>* keys_of(const Rows& keys, int row, int thread) {
    const int group = thread % 32 / 8;
    return keys.vector(row, group < kRowVectors16 ? group : kRowVectors16 - 1);
  }

  // d += rows keys^T
  __device__ void multiply(float (&d)[4], const Vector16<T>* keys) const {
#pragma unroll
    for (int p = 0; p < kRowVectors16; p += 4) {
      unsigned b[4];
      ldmatrix_x4(b, keys + p);
#pragma unroll
      for (int q = 0; q < 4 && p + q < kRowVectors16; q += 2) {
        if (p + q + 1 < kRowVectors16) {
          const unsigned a[4] = {parts[p + q][0], parts[p + q][1], parts[p + q + 1][0],
                                 parts[p + q + 1][1]};
          const unsigned column[2] = {b[q], b[q + 1]};
          mma_m16n8k16(d, a, column, T{});
        } else {
          const unsigned column[1] = {b[q]};
          mma_m16n8k8(d, parts[p + q], column, T{});
        }
      }
    }
  }

  // d += rows right, a right operand of 8 columns.
  __device__ void multiply(float (&d)[4], const unsigned (&right)[kRowVectors16]) const {
#pragma unroll
    for (int p = 0; p + 1 < kRowVectors16; p += 2) {
      const unsigned a[4] = {parts[p][0], parts[p][1], parts[p + 1][0], parts[p + 1][1]};
      mma_m16n8k16(d, a, {right[p], right[p + 1]}, T{});
    }
    if constexpr (kRowVectors16 % 2 != 0)
      mma_m16n8k8(d, parts[kRowVectors16 - 1], {right[kRowVectors16 - 1]}, T{});
  }

  // The squared lengths of rows r and r + 8, r = lane / 4, in the lanes that hold them. The left
  // operand's rows are a right operand's columns, so that the lengths are a product's diagonal.
  __device__ static bool holds_squares(int lane) { return lane % 4 == lane / 8; }
  __device__ float2 squares(int lane) const {
    float both[2][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned rows[kRowVectors16];
#pragma unroll
      for (int p = 0; p < kRowVectors16; ++p) rows[p] = parts[p][half];
      multiply(both[half], rows);
    }
    return lane / 4 % 2 == 0 ? float2{both[0][0], both[1][2]} : float2{both[0][1], both[1][3]};
  }
};

// The address of a lane's part of 16 values, where `row` is its key: lanes i and i + 16 load key i.
template <class T, int kDim>
__device__ inline const Vector16<T>* values_of(const SharedRows<T, kDim>& values, int row,
                                               int thread) {
  return values.vector(row, thread % 32 / 16);
}

// out += weights values, of 16 keys or of the first 8 of them.
template <class T, int kRowVectors16, int kBlocks, int kRegisters>
__device__ inline void multiply_values(float (&out)[kBlocks][4],
                                       const unsigned (&weights)[kRegisters],
                                       const Vector16<T>* values) {
  const auto multiply = [&](int c, unsigned first, unsigned second) {
    if constexpr (kRegisters == 4)
      mma_m16n8k16(out[c], weights, {first, second}, T{});
    else
      mma_m16n8k8(out[c], weights, {first}, T{});
  };
#pragma unroll
  for (int c = 0; c + 1 < kRowVectors16; c += 2) {
    unsigned b[4];
    ldmatrix_x4_trans(b, values + c);
    multiply(c, b[0], b[1]);
    multiply(c + 1, b[2], b[3]);
  }
  if constexpr (kRowVectors16 % 2 != 0) {
    unsigned b[2];
    ldmatrix_x2_trans(b, values + kRowVectors16 - 1);
    multiply(kRowVectors16 - 1, b[0], b[1]);
  }
}

// The power of two at which the largest of a warp's numbers lies, or 1 for zero, infinity and NaN.
__device__ inline float power_of_largest(float largest) {
  const unsigned exponent = float_to_bits(warp_max(largest)) & 0x7f800000u;
  return exponent > 0 && exponent < 0x7f000000u ? bits_to_float(exponent) : 1.0f;
}

// A number as two of T: exact to 2^-16 (BFloat16) or 2^-22 (Half) of numbers around 1.
template <class T>
__device__ inline void split(float value, T& rounded, T& error) {
  from_float(value, rounded);
  from_float(value - to_float(rounded), error);
}

// The query embedding in shared memory as the right operand of MMAs: rounded elements, divided by a
// power of two, and their rounding errors. Exact to 2^-16 (BFloat16) or 2^-22 (Half) of the largest.
template <class T, int kDim>
struct EmbeddingRows {
  T rounded[kDim];
  T errors[kDim];
  float scale;

  // Stores the embedding of which `of(channel)` is an element, also as floats, by one warp.
  template <class Of>
  __device__ void load(const Of& of, float* elements) {
    const int lane = thread_index() % 32;
    float most = 0.0f;
#pragma unroll 1
    for (int c = lane; c < kDim; c += 32) {
      elements[c] = of(c);
      most = fmaxf(most, fabsf(elements[c]));
    }
    const float power = power_of_largest(most);
    if (lane == 0) scale = power;
    const float down = 1.0f / power;
#pragma unroll 1
    for (int c = lane; c < kDim; c += 32) split(elements[c] * down, rounded[c], errors[c]);
  }
};

// Rounds the elements as EmbeddingRows do, by one warp: logits of large terms, of which another kernel has
// computed the log-sum-exp, have to be the same ones.
template <class T>
__device__ inline void round_embedding(float* elements, int count) {
  if constexpr (sizeof(T) == 2) {
    const int lane = thread_index() % 32;
    float most = 0.0f;
#pragma unroll 1
    for (int c = lane; c < count; c += 32) most = fmaxf(most, fabsf(elements[c]));
    const float power = power_of_largest(most);
#pragma unroll 1
    for (int c = lane; c < count; c += 32) {
      T rounded, error;
      split(elements[c] * (1.0f / power), rounded, error);
      elements[c] = (to_float(rounded) + to_float(error)) * power;
    }
  }
}

// A lane's part of it: even columns are the rounded elements, odd ones the errors.
template <class T, int kDim>
struct EmbeddingOperand {
  unsigned parts[kDim / 8];
  float scale;

  __device__ EmbeddingOperand(const EmbeddingRows<T, kDim>& rows, int lane) : scale(rows.scale) {
    const T* row = (lane / 4 % 2 == 0 ? rows.rounded : rows.errors) + lane % 4 * 2;
#pragma unroll
    for (int p = 0; p < kDim / 8; ++p) parts[p] = *reinterpret_cast<const unsigned*>(row + 8 * p);
  }

  // embedding . row of rows r and r + 8.
  __device__ float2 dots(const RowOperand<T, kDim>& rows) const {
    float products[4] = {};
    rows.multiply(products, parts);
    return {(products[0] + products[1]) * scale, (products[2] + products[3]) * scale};
  }
};

// Calls `store(row, 1 / |row|, embedding . row)` for `count` rows and those up to the next multiple of
// 16, by all warps of a block.
template <int kThreads, class T, int kDim, class Store>
__device__ inline void for_row_terms(const SharedRows<T, kDim>& rows, int count,
                                     const EmbeddingRows<T, kDim>& embedding, const Store& store) {
  const int thread = thread_index();
  const int lane = thread % 32;
  int first = thread / 32 * 16;
  if (first >= count) return;
  const EmbeddingOperand<T, kDim> right(embedding, lane);
  const Vector16<T>* from = RowOperand<T, kDim>::rows_of(rows, first, lane);
#pragma unroll 1
  for (; first < count; first += kThreads / 2) {
    RowOperand<T, kDim> operand;
    operand.load(from);
    from += kThreads / 2 * SharedRows<T, kDim>::kRowBytes / kVector16Bytes;
    const float2 squares = operand.squares(lane);
    const float2 dots = right.dots(operand);
    if (RowOperand<T, kDim>::holds_squares(lane)) {
      store(first + lane / 4, inverse_norm(squares.x), dots.x);
      store(first + lane / 4 + 8, inverse_norm(squares.y), dots.y);
    }
  }
}

}  // namespace transnext::device
