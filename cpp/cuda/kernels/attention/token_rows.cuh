// Token vectors of one image and head between global memory and rows in shared memory, where
// channels beyond the head dim are zero.
#pragma once

#include "cuda/kernels/attention/row_gemm.cuh"
#include "cuda/kernels/common/async_copy.cuh"
#include "cuda/kernels/common/math.cuh"
#include "transnext/tensor.h"

namespace transnext::device {

// Element i of a head's row of an [h, size] parameter; zero if the parameter is absent, and beyond
// the end.
__device__ inline float head_parameter(const View<2>& view, int head, int i) {
  if (!view.present() || i >= static_cast<int>(view.shape[1])) return 0.0f;
  return static_cast<const float*>(view.data)[head * view.stride[0] + i * view.stride[1]];
}

// The tokens of an image and head of a [B, N, h, d] tensor.
template <class T>
struct TokenRows {
  T* data = nullptr;
  index_t token_stride = 0;
  index_t channel_stride = 0;
  int channels = 0;
  bool vectors = false;  // eight channels are one or two accesses of 16 bytes

  __device__ TokenRows(const View<4>& view, index_t batch, index_t head)
      : data(static_cast<T*>(view.data) + batch * view.stride[0] + head * view.stride[2]),
        token_stride(view.stride[1]),
        channel_stride(view.stride[3]),
        channels(static_cast<int>(view.shape[3])) {
    constexpr index_t unit = 16 / sizeof(T);
    vectors = channel_stride == 1 && channels % 8 == 0 && token_stride % unit == 0 &&
              reinterpret_cast<unsigned long long>(data) % 16 == 0;
  }

  // Starts to copy the 16 bytes from a channel on, zeros without a token and beyond the last
  // channel. Requires `vectors`.
  __device__ void copy_async(index_t token, int channel, T* to) const {
    const bool inside = token >= 0 && channel < channels;
    copy_async_16(to, inside ? data + token * token_stride + channel : data, inside);
  }

  // Stores channels c and c + 1 of a row of 16-bit elements; c is even.
  __device__ void write_two(index_t token, int c, float first, float second) const {
    T* to = data + token * token_stride + c * channel_stride;
    if (vectors) {
      if (c < channels) *reinterpret_cast<unsigned*>(to) = pack<T>(first, second);
      return;
    }
    if (c < channels) from_float(first, to[0]);
    if (c + 1 < channels) from_float(second, to[channel_stride]);
  }

  // Stores channels 8 chunk to 8 chunk + 7.
  __device__ void write(index_t token, int chunk, const float (&values)[8]) const {
    T* to = data + token * token_stride + chunk * 8 * channel_stride;
    if (vectors) {
      if (chunk * 8 < channels) store_vec8(values, to);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (chunk * 8 + i < channels) from_float(values[i], to[i * channel_stride]);
    }
  }
};

// Calls visit(row, channel) for the 16-byte vectors of `count` rows: neighbouring threads of a block
// visit neighbouring vectors.
template <int kDim, class T, class Visit>
__device__ inline void for_vectors(int count, const Visit& visit) {
  constexpr int elements = 16 / static_cast<int>(sizeof(T));
  constexpr int vectors = kDim / elements;
#pragma unroll 1
  for (int item = static_cast<int>(threadIdx.x); item < count * vectors;
       item += static_cast<int>(blockDim.x))
    visit(item / vectors, item % vectors * elements);
}

// Starts to copy `count` rows, by all threads of a block. Row i is the token token_of(i), or zero where
// that is negative.
template <int kDim, class T, class TokenOf>
__device__ inline void stage_rows(const TokenRows<T>& tokens, int count, TokenOf token_of,
                                  T* rows) {
  for_vectors<kDim, T>(count, [&](int row, int first) {
    const index_t token = token_of(row);
    T* to = rows + row * row_stride<T>(kDim) + first;
    if (tokens.vectors) {
      tokens.copy_async(token, first, to);
      return;
    }
#pragma unroll
    for (int i = 0; i < 16 / static_cast<int>(sizeof(T)); ++i) {
      const bool inside = token >= 0 && first + i < tokens.channels;
      to[i] = inside
                  ? tokens.data[token * tokens.token_stride + (first + i) * tokens.channel_stride]
                  : T{};
    }
  });
}

// The same for two tensors at once, so that each vector's token is found once.
template <int kDim, class T, class TokenOf>
__device__ inline void stage_rows(const TokenRows<T>& first, const TokenRows<T>& second, int count,
                                  TokenOf token_of, T* first_rows, T* second_rows) {
  if (!first.vectors || !second.vectors) {
    stage_rows<kDim>(first, count, token_of, first_rows);
    stage_rows<kDim>(second, count, token_of, second_rows);
    return;
  }
  for_vectors<kDim, T>(count, [&](int row, int channel) {
    const index_t token = token_of(row);
    const int to = row * row_stride<T>(kDim) + channel;
    first.copy_async(token, channel, first_rows + to);
    second.copy_async(token, channel, second_rows + to);
  });
}

// Waits for all copies that this thread started.
__device__ inline void finish_copies() {
  commit_copies();
  wait_copies<0>();
}

template <int kDim, class T>
__device__ inline float row_square(const T* row) {
  float sum = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < kDim / 8; ++chunk) {
    float x[8];
    load_vec8(row + chunk * 8, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i] * x[i];
  }
  return sum;
}

// The part of a row's squared norm that one of four threads sums.
template <int kDim, class T>
__device__ inline float part_square(const T* row, int part) {
  float sum = 0.0f;
#pragma unroll
  for (int first = 0; first < kDim / 8; first += 4) {
    if (first + part >= kDim / 8) continue;
    float x[8];
    load_vec8(row + (first + part) * 8, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i] * x[i];
  }
  return sum;
}

template <int kDim, class T>
__device__ inline float row_norm(const T* row) {
  return sqrtf(row_square<kDim>(row));
}

template <int kDim, class T>
__device__ inline float row_dot(const T* row, const float* vector) {
  float sum = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < kDim / 8; ++chunk) {
    float x[8];
    load_vec8(vector + chunk * 8, x);
    sum = dot_vec8(row + chunk * 8, x, sum);
  }
  return sum;
}

}  // namespace transnext::device
