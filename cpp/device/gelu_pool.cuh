// gelu_pool on the GPU, T in float, Half, BFloat16; float arithmetic.
//
//   out[b, p, c] = 1 / |bin p| * sum over n in bin p of GELU(x[b, n, c])
//   d_x[b, n, c] = GELU'(x[b, n, c]) * sum over bins p with n in them of d_out[b, p, c] / |bin p|
//
// Lanes of a warp lie along channels, so that every access of x, out, d_out and d_x is one run of
// consecutive elements. Forward: a block makes 32 channels of one bin; its rows of threads share
// the cells and their sums meet in shared memory in the order of the rows. Backward: one thread per
// element gathers from the bins it lies in (one, or up to four where bins overlap), so there are no
// atomics and both directions are deterministic.
//
// Bytes per element of x: forward sizeof(T) read, backward 2 sizeof(T), d_out coming from cache;
// about 25 flops. At 3 TB/s, float32 needs 1.3 ps per element forward: bound by memory.
#pragma once

#include "device/gelu_pool_shape.h"
#include "device/storage.cuh"
#include "transnext/gelu_pool.h"

namespace transnext {

namespace device {

constexpr float kInverseSqrtTwo = 0.70710678f;
constexpr float kInverseSqrtTwoPi = 0.39894228f;

__device__ inline float gelu(float x) {
  return 0.5f * x * (1.0f + erff(x * kInverseSqrtTwo));
}

__device__ inline float gelu_slope(float x) {
  return 0.5f * (1.0f + erff(x * kInverseSqrtTwo)) + x * kInverseSqrtTwoPi * expf(-0.5f * x * x);
}

}  // namespace device

// Block (32, rows), rows <= kGeluPoolRows. Grid: tiles of (image, bin, 32 channels), channels
// fastest.
template <class T>
__global__ void gelu_pool_forward(GeluPoolParams p) {
  __shared__ float partial[kGeluPoolRows][kGeluPoolLanes];
  const T* x = static_cast<const T*>(p.x.data);  // [B, N, C]
  T* out = static_cast<T*>(p.out.data);          // [B, P, C]
  const index_t channels = p.x.shape[2];
  const index_t channel_tiles = (channels + kGeluPoolLanes - 1) / kGeluPoolLanes;
  const index_t tiles = p.x.shape[0] * p.pool_grid.size() * channel_tiles;

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t channel = tile % channel_tiles * kGeluPoolLanes + threadIdx.x;
    const index_t bin = tile / channel_tiles % p.pool_grid.size();
    const index_t batch = tile / channel_tiles / p.pool_grid.size();
    const index_t a = bin / p.pool_grid.width;
    const index_t b = bin % p.pool_grid.width;
    const index_t top = bin_begin(a, p.pool_grid.height, p.grid.height);
    const index_t left = bin_begin(b, p.pool_grid.width, p.grid.width);
    const int width = static_cast<int>(bin_end(b, p.pool_grid.width, p.grid.width) - left);
    const int height = static_cast<int>(bin_end(a, p.pool_grid.height, p.grid.height) - top);

    float sum = 0.0f;
    if (channel < channels) {
      const T* image = x + batch * p.x.stride[0] + channel * p.x.stride[2];
      for (int cell = threadIdx.y; cell < height * width; cell += blockDim.y) {
        const index_t token = (top + cell / width) * p.grid.width + left + cell % width;
        sum += device::gelu(to_float(image[token * p.x.stride[1]]));
      }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
      for (unsigned row = 1; row < blockDim.y; ++row) sum += partial[row][threadIdx.x];
      from_float(sum / static_cast<float>(height * width),
                 out[batch * p.out.stride[0] + bin * p.out.stride[1] + channel * p.out.stride[2]]);
    }
    __syncthreads();  // before the next tile overwrites the partial sums
  }
}

// Block (32, kGeluPoolRows). Grid: tiles of (image, kGeluPoolRows tokens, 32 channels), channels
// fastest.
template <class T>
__global__ void gelu_pool_backward(GeluPoolBackwardParams p) {
  const T* x = static_cast<const T*>(p.x.data);          // [B, N, C]
  const T* d_out = static_cast<const T*>(p.d_out.data);  // [B, P, C]
  T* d_x = static_cast<T*>(p.d_x.data);                  // [B, N, C]
  const index_t channels = p.x.shape[2];
  const index_t channel_tiles = (channels + kGeluPoolLanes - 1) / kGeluPoolLanes;
  const index_t token_tiles = (p.grid.size() + kGeluPoolRows - 1) / kGeluPoolRows;
  const index_t tiles = p.x.shape[0] * token_tiles * channel_tiles;

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t channel = tile % channel_tiles * kGeluPoolLanes + threadIdx.x;
    const index_t token = tile / channel_tiles % token_tiles * kGeluPoolRows + threadIdx.y;
    const index_t batch = tile / channel_tiles / token_tiles;
    if (channel >= channels || token >= p.grid.size()) continue;
    const index_t row = token / p.grid.width;
    const index_t column = token % p.grid.width;
    const T* gradients = d_out + batch * p.d_out.stride[0] + channel * p.d_out.stride[2];

    float sum = 0.0f;
    const index_t last_a = bin_end(row, p.grid.height, p.pool_grid.height);
    const index_t last_b = bin_end(column, p.grid.width, p.pool_grid.width);
    for (index_t a = bin_begin(row, p.grid.height, p.pool_grid.height); a < last_a; ++a) {
      const index_t height = bin_end(a, p.pool_grid.height, p.grid.height) -
                             bin_begin(a, p.pool_grid.height, p.grid.height);
      for (index_t b = bin_begin(column, p.grid.width, p.pool_grid.width); b < last_b; ++b) {
        const index_t width = bin_end(b, p.pool_grid.width, p.grid.width) -
                              bin_begin(b, p.pool_grid.width, p.grid.width);
        const index_t bin = a * p.pool_grid.width + b;
        sum += to_float(gradients[bin * p.d_out.stride[1]]) / static_cast<float>(height * width);
      }
    }
    const float value =
        to_float(x[batch * p.x.stride[0] + token * p.x.stride[1] + channel * p.x.stride[2]]);
    from_float(sum * device::gelu_slope(value),
               d_x[batch * p.d_x.stride[0] + token * p.d_x.stride[1] + channel * p.d_x.stride[2]]);
  }
}

}  // namespace transnext
