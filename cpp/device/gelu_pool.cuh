// gelu_pool on the GPU, T in float, Half, BFloat16; float arithmetic.
//
//   out[b, p, c] = 1 / |bin p| * sum over n in bin p of GELU(x[b, n, c])
//   d_x[b, n, c] = GELU'(x[b, n, c]) * sum over bins p with n in them of d_out[b, p, c] / |bin p|
//
// Threads along x lie along channels, two each, so that every access of x, out, d_out and d_x is one
// run of consecutive elements. Forward: a block makes some channels of one bin; its rows of threads
// share the cells and their sums meet in shared memory in the order of the rows. Backward: one
// thread per pair of channels gathers from the bins its token lies in (one, or up to four where bins
// overlap), so there are no atomics and both directions are deterministic.
//
// Bytes per element of x: forward sizeof(T) read, backward 2 sizeof(T), d_out coming from cache;
// 20 flops forward, 29 backward. At 3 TB/s, float32 needs 1.3 ps per element forward: bound by
// memory.
#pragma once

#include "device/gelu_pool_shape.h"
#include "device/math.cuh"
#include "device/runs.cuh"
#include "transnext/gelu_pool.h"

namespace transnext {

// Block (lanes <= kGeluPoolLanes, rows <= kGeluPoolRows). Grid: tiles of (image, bin, channels of
// the lanes), channels fastest.
template <class T>
__global__ void __launch_bounds__(kGeluPoolLanes* kGeluPoolRows, kGeluPoolBlocks)
    gelu_pool_forward(GeluPoolParams p) {
  constexpr int kRun = kGeluPoolRun;
  __shared__ device::Run<float, kRun> partial[kGeluPoolRows * kGeluPoolLanes];
  const T* x = static_cast<const T*>(p.x.data);  // [B, N, C]
  T* out = static_cast<T*>(p.out.data);          // [B, P, C]
  const bool runs = device::has_runs<T, kRun>(p.x) && device::has_runs<T, kRun>(p.out);
  const index_t channels = p.x.shape[2];
  const index_t tile_channels = index_t{blockDim.x} * kRun;
  const index_t channel_tiles = (channels + tile_channels - 1) / tile_channels;
  const index_t tiles = p.x.shape[0] * p.pool_grid.size() * channel_tiles;

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t channel = tile % channel_tiles * tile_channels + threadIdx.x * kRun;
    const index_t count = channels - channel;
    const index_t bin = tile / channel_tiles % p.pool_grid.size();
    const index_t batch = tile / channel_tiles / p.pool_grid.size();
    const index_t a = bin / p.pool_grid.width;
    const index_t b = bin % p.pool_grid.width;
    const index_t top = bin_begin(a, p.pool_grid.height, p.grid.height);
    const index_t left = bin_begin(b, p.pool_grid.width, p.grid.width);
    const int width = static_cast<int>(bin_end(b, p.pool_grid.width, p.grid.width) - left);
    const int height = static_cast<int>(bin_end(a, p.pool_grid.height, p.grid.height) - top);

    float sum[kRun] = {};
    if (count > 0) {
      const T* image = x + batch * p.x.stride[0] + channel * p.x.stride[2];
#pragma unroll 4
      for (int cell = threadIdx.y; cell < height * width; cell += blockDim.y) {
        const index_t token = (top + cell / width) * p.grid.width + left + cell % width;
        float values[kRun];
        device::load_run(image + token * p.x.stride[1], p.x.stride[2], count, runs, values);
        for (int i = 0; i < kRun; ++i) sum[i] += device::gelu(values[i]);
      }
    }
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int i = 0; i < kRun; ++i) partial[thread].values[i] = sum[i];
    __syncthreads();
    if (threadIdx.y == 0 && count > 0) {
      for (unsigned row = 1; row < blockDim.y; ++row) {
        const device::Run<float, kRun> other = partial[row * blockDim.x + threadIdx.x];
        for (int i = 0; i < kRun; ++i) sum[i] += other.values[i];
      }
      for (int i = 0; i < kRun; ++i) sum[i] /= static_cast<float>(height * width);
      device::store_run(
          out + batch * p.out.stride[0] + bin * p.out.stride[1] + channel * p.out.stride[2],
          p.out.stride[2], count, runs, sum);
    }
    __syncthreads();  // before the next tile overwrites the partial sums
  }
}

// Block (lanes <= kGeluPoolLanes, kGeluPoolRows). Grid: tiles of (image, kGeluPoolRows tokens,
// channels of the lanes), channels fastest.
template <class T>
__global__ void __launch_bounds__(kGeluPoolLanes* kGeluPoolRows, kGeluPoolBlocks)
    gelu_pool_backward(GeluPoolBackwardParams p) {
  constexpr int kRun = kGeluPoolRun;
  const T* x = static_cast<const T*>(p.x.data);          // [B, N, C]
  const T* d_out = static_cast<const T*>(p.d_out.data);  // [B, P, C]
  T* d_x = static_cast<T*>(p.d_x.data);                  // [B, N, C]
  const bool runs = device::has_runs<T, kRun>(p.x) && device::has_runs<T, kRun>(p.d_out) &&
                    device::has_runs<T, kRun>(p.d_x);
  const index_t channels = p.x.shape[2];
  const index_t tile_channels = index_t{blockDim.x} * kRun;
  const index_t channel_tiles = (channels + tile_channels - 1) / tile_channels;
  const index_t token_tiles = (p.grid.size() + kGeluPoolRows - 1) / kGeluPoolRows;
  const index_t tiles = p.x.shape[0] * token_tiles * channel_tiles;

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t channel = tile % channel_tiles * tile_channels + threadIdx.x * kRun;
    const index_t count = channels - channel;
    const index_t token = tile / channel_tiles % token_tiles * kGeluPoolRows + threadIdx.y;
    const index_t batch = tile / channel_tiles / token_tiles;
    if (count <= 0 || token >= p.grid.size()) continue;
    const index_t row = token / p.grid.width;
    const index_t column = token % p.grid.width;
    const T* gradients = d_out + batch * p.d_out.stride[0] + channel * p.d_out.stride[2];
    float values[kRun];
    device::load_run(x + batch * p.x.stride[0] + token * p.x.stride[1] + channel * p.x.stride[2],
                     p.x.stride[2], count, runs, values);

    float sum[kRun] = {};
    const index_t last_a = bin_end(row, p.grid.height, p.pool_grid.height);
    const index_t last_b = bin_end(column, p.grid.width, p.pool_grid.width);
#pragma unroll 1
    for (index_t a = bin_begin(row, p.grid.height, p.pool_grid.height); a < last_a; ++a) {
      const index_t height = bin_end(a, p.pool_grid.height, p.grid.height) -
                             bin_begin(a, p.pool_grid.height, p.grid.height);
#pragma unroll 1
      for (index_t b = bin_begin(column, p.grid.width, p.pool_grid.width); b < last_b; ++b) {
        const index_t width = bin_end(b, p.pool_grid.width, p.grid.width) -
                              bin_begin(b, p.pool_grid.width, p.grid.width);
        const index_t bin = a * p.pool_grid.width + b;
        const float share = 1.0f / static_cast<float>(height * width);
        float gradient[kRun];
        device::load_run(gradients + bin * p.d_out.stride[1], p.d_out.stride[2], count, runs,
                         gradient);
        for (int i = 0; i < kRun; ++i) sum[i] += gradient[i] * share;
      }
    }
    for (int i = 0; i < kRun; ++i) sum[i] *= device::gelu_slope(values[i]);
    device::store_run(
        d_x + batch * p.d_x.stride[0] + token * p.d_x.stride[1] + channel * p.d_x.stride[2],
        p.d_x.stride[2], count, runs, sum);
  }
}

}  // namespace transnext
