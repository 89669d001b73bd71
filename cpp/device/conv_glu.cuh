// conv_glu on the GPU, T in float, Half, BFloat16; float arithmetic. With (a, g) the halves of x,
// D = d_out and t the nine taps of the depthwise convolution:
//
//   u[n, c]   = bias[c] + sum_t weight[c, t] a[n + offset_t, c]
//   out       = GELU(u) g
//
//   d_g       = D GELU(u)
//   d_u       = D g GELU'(u)
//   d_a[n, c] = sum_t weight[c, t] d_u[n - offset_t, c]
//   d_weight[c, t] = sum_n d_u[n, c] a[n + offset_t, c],   d_bias[c] = sum_n d_u[n, c]
//
// Lanes lie along channels, so that accesses are runs of consecutive elements. A thread walks down a
// strip of four columns: each row that it loads, with a halo column on each side, adds to the three
// rows of outputs that lie in registers, of which the uppermost is then finished. The halo columns
// were loaded by the neighbouring warp and come from the L1 cache. Only the weights go through shared
// memory.
//
// Forward, two channels per thread: bytes per output 3 sizeof(T) (a, g in, out), requested
// (6/4 18/16 + 2) / 3 = 1.23 times that at a full band; 18 flops and a GELU of about 25.
//
// Backward, one channel per thread: u is computed again, over a halo of one column and row, from
// three rows of a that lie in registers (halo two); d_a is summed as u is. Bytes per element 5
// sizeof(T) (a, g, D in, d_a, d_g out); about 1.7 (18 + 40) + 36 flops. Gradients of weights stay
// in registers over all tiles of a block and leave it as one row of partial sums, which
// partial_sums.cuh adds: deterministic.
#pragma once

#include "device/conv_glu_shape.h"
#include "device/image.cuh"
#include "device/math.cuh"
#include "device/partial_sums.cuh"
#include "device/runs.cuh"
#include "transnext/conv_glu.h"

namespace transnext {

namespace device {

// Where a thread's strip of a tile lies: rows [top, bottom) and columns from `left` of an image.
struct ConvGluStrip {
  index_t batch;
  index_t left;
  int top;
  int bottom;
};

// Tiles are numbered columns first, then bands, then images.
__device__ inline index_t conv_glu_blocks_across(Grid grid) {
  const index_t columns = index_t{blockDim.y} * kConvGluColumns;
  return (grid.width + columns - 1) / columns;
}

__device__ inline ConvGluStrip conv_glu_strip(index_t tile, Grid grid) {
  const index_t across = conv_glu_blocks_across(grid);
  const index_t bands = conv_glu_bands(grid.height);
  const index_t band = tile / across % bands;
  return {tile / across / bands, (tile % across * blockDim.y + threadIdx.y) * kConvGluColumns,
          static_cast<int>(grid.height * band / bands),
          static_cast<int>(grid.height * (band + 1) / bands)};
}

// Weights of a block's channels by tap, read from global memory in the order in which they lie there.
// Rows of taps are so far apart that writing has few bank conflicts, and reading runs of channels none.
template <int kChannels>
struct ConvGluWeights {
  static constexpr int kPitch = kChannels + 4;
  float taps[9 * kPitch];

  __device__ void load(const View<4>& weight, index_t first_channel, index_t count) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < kChannels * 9;
         i += static_cast<int>(blockDim.x * blockDim.y)) {
      const int channel = i / 9;
      const int tap = i % 9;
      taps[tap * kPitch + channel] =
          channel < count
              ? static_cast<const float*>(
                    weight.data)[(first_channel + channel) * weight.stride[0] +
                                 tap / 3 * weight.stride[2] + tap % 3 * weight.stride[3]]
              : 0.0f;
    }
  }
  template <int n>
  __device__ void read(int channel, int tap, float (&to)[n]) const {
    const Run<float, n> run =
        *reinterpret_cast<const Run<float, n>*>(taps + tap * kPitch + channel);
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = run.values[i];
  }
};

__device__ inline float conv_glu_bias(const View<1>& bias, index_t channel) {
  return bias.present() ? static_cast<const float*>(bias.data)[channel * bias.stride[0]] : 0.0f;
}

}  // namespace device

// Block (32, strips). Grid: (tile, 64 channels), channels fastest.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips, kConvGluBlocks)
    conv_glu_forward(ConvGluParams p) {
  constexpr int kRun = kConvGluRun;
  constexpr int kColumns = kConvGluColumns;
  constexpr int kChannels = kConvGluLanes * kRun;
  __shared__ __align__(8) device::ConvGluWeights<kChannels> weights;
  const T* x = static_cast<const T*>(p.x.data);  // [B, N, 2 hidden]
  T* out = static_cast<T*>(p.out.data);          // [B, N, hidden]
  const index_t hidden = p.out.shape[2];
  const bool runs =
      hidden % kRun == 0 && device::has_runs<T, kRun>(p.x) && device::has_runs<T, kRun>(p.out);
  const index_t groups = (hidden + kChannels - 1) / kChannels;
  const index_t tiles =
      p.x.shape[0] * conv_glu_bands(p.grid.height) * device::conv_glu_blocks_across(p.grid);
  const int width = static_cast<int>(p.grid.width);

  for (index_t work = blockIdx.x; work < tiles * groups; work += gridDim.x) {
    const index_t first_channel = work % groups * kChannels;
    const int lane_channel = static_cast<int>(threadIdx.x) * kRun;
    const index_t channel = first_channel + lane_channel;
    const index_t count = hidden - channel;
    const device::ConvGluStrip strip = device::conv_glu_strip(work / groups, p.grid);
    __syncthreads();  // nobody reads the weights before any more
    weights.load(p.weight, first_channel, hidden - first_channel);
    __syncthreads();
    if (count <= 0 || strip.left >= width) continue;
    const int left = static_cast<int>(strip.left);

    float weight[9][kRun];
    float bias[kRun];
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) weights.read(lane_channel, tap, weight[tap]);
    for (int i = 0; i < kRun; ++i)
      bias[i] = device::conv_glu_bias(p.bias, i < count ? channel + i : channel);
    const index_t step = p.x.stride[1];
    const index_t out_step = p.out.stride[1];
    // Of the row that is loaded, from the halo column on, and of the row before it, which is
    // finished by that.
    const index_t token = index_t{strip.top - 1} * width + left;
    const T* value = x + strip.batch * p.x.stride[0] + channel * p.x.stride[2] + (token - 1) * step;
    const index_t to_gate = hidden * p.x.stride[2] - (width - 1) * step;
    T* target = out + strip.batch * p.out.stride[0] + channel * p.out.stride[2] +
                (token - width) * out_step;

    float sum[3][kColumns][kRun];  // of the rows above, at and below the one that is loaded
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kRun; ++i) sum[0][j][i] = sum[1][j][i] = bias[i];
    }
    for (int row = strip.top - 1; row <= strip.bottom; ++row) {
      float loaded[kColumns + 2][kRun] = {};
      float gates[kColumns][kRun];
      const bool finishes = row > strip.top;
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        if (device::inside(p.grid, row, left + j - 1))
          device::load_run(value + j * step, p.x.stride[2], count, runs, loaded[j]);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (finishes && left + j < width)
          device::load_run(value + to_gate + j * step, p.x.stride[2], count, runs, gates[j]);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sum[2][j][i] = bias[i];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap)
            sum[2 - tap / 3][j][i] += weight[tap][i] * loaded[j + tap % 3][i];
        }
        if (finishes && left + j < width) {
          float result[kRun];
#pragma unroll
          for (int i = 0; i < kRun; ++i) result[i] = device::gelu(sum[0][j][i]) * gates[j][i];
          device::store_run(target + j * out_step, p.out.stride[2], count, runs, result);
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sum[0][j][i] = sum[1][j][i];
          sum[1][j][i] = sum[2][j][i];
        }
      }
      value += width * step;
      target += width * out_step;
    }
  }
}

// Block (32, strips). Grid: (worker, 32 channels), channels fastest; a worker takes every
// workers-th tile and leaves workspace[worker, kConvGluTerms, hidden], if a parameter's gradient is
// wanted.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips, kConvGluBackwardBlocks)
    conv_glu_backward(ConvGluBackwardParams p) {
  constexpr int kColumns = kConvGluColumns;
  __shared__ float partial[kConvGluStrips][kConvGluTerms][kConvGluLanes];
  __shared__ device::ConvGluWeights<kConvGluLanes> weights;
  const T* d_out = static_cast<const T*>(p.d_out.data);  // [B, N, hidden]
  const T* x = static_cast<const T*>(p.x.data);          // [B, N, 2 hidden]
  T* d_x = static_cast<T*>(p.d_x.data);                  // [B, N, 2 hidden], optional
  const index_t hidden = p.d_out.shape[2];
  const index_t groups = (hidden + kConvGluLanes - 1) / kConvGluLanes;
  const index_t channel = blockIdx.x % groups * kConvGluLanes + threadIdx.x;
  const index_t worker = blockIdx.x / groups;
  const index_t workers = gridDim.x / groups;
  const index_t tiles =
      p.x.shape[0] * conv_glu_bands(p.grid.height) * device::conv_glu_blocks_across(p.grid);
  const int width = static_cast<int>(p.grid.width);

  float weight[9][1] = {};
  float bias = 0.0f;
  float d_weight[9] = {};
  float d_bias = 0.0f;
  weights.load(p.weight, channel - threadIdx.x, hidden - (channel - threadIdx.x));
  __syncthreads();
  if (channel < hidden) {
    bias = device::conv_glu_bias(p.bias, channel);
    for (int tap = 0; tap < 9; ++tap) weights.read(static_cast<int>(threadIdx.x), tap, weight[tap]);
  }

  for (index_t tile = worker; tile < tiles; tile += workers) {
    const device::ConvGluStrip strip = device::conv_glu_strip(tile, p.grid);
    if (channel >= hidden || strip.left >= width) continue;
    const int left = static_cast<int>(strip.left);
    const T* value = x + strip.batch * p.x.stride[0] + channel * p.x.stride[2];
    const T* gate = value + hidden * p.x.stride[2];
    const T* gradient = d_out + strip.batch * p.d_out.stride[0] + channel * p.d_out.stride[2];
    T* d_value = d_x + strip.batch * p.d_x.stride[0] + channel * p.d_x.stride[2];
    T* d_gate = d_value + hidden * p.d_x.stride[2];

    // a of columns left - 2 .. left + 5 in the rows above, at and below `row`
    float a[3][kColumns + 4] = {};
    float d_a[3][kColumns] = {};  // sums of those rows
    for (int row = strip.top - 3; row <= strip.bottom; ++row) {
#pragma unroll
      for (int j = 0; j < kColumns + 4; ++j) {
        const int column = left + j - 2;
        a[0][j] = a[1][j];
        a[1][j] = a[2][j];
        a[2][j] = 0.0f;
        if (device::inside(p.grid, row + 1, column))
          a[2][j] = to_float(value[(index_t{row + 1} * width + column) * p.x.stride[1]]);
      }
      if (row < strip.top - 1) continue;  // a's rows are not complete yet

      float d_u[kColumns + 2];  // of columns left - 1 .. left + 4
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        const int column = left + j - 1;
        d_u[j] = 0.0f;
        if (!device::inside(p.grid, row, column)) continue;
        const index_t token = index_t{row} * width + column;
        float u = bias;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) u += weight[tap][0] * a[tap / 3][j + tap % 3];
        const float distribution = device::normal_distribution(u);
        const float d = to_float(gradient[token * p.d_out.stride[1]]);
        d_u[j] = d * to_float(gate[token * p.x.stride[1]]) * device::gelu_slope(u, distribution);
        const bool inside = j > 0 && j <= kColumns && row >= strip.top && row < strip.bottom;
        if (inside && p.d_x.present())
          from_float(d * u * distribution, d_gate[token * p.d_x.stride[1]]);
      }
      if (row >= strip.top && row < strip.bottom) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          d_bias += d_u[j + 1];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap)
            d_weight[tap] += d_u[j + 1] * a[tap / 3][j + 1 + tap % 3];
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight[tap][0] * d_u[j + 2 - tap % 3];
        if (p.d_x.present() && row > strip.top && left + j < width)
          from_float(d_a[0][j], d_value[(index_t{row - 1} * width + left + j) * p.d_x.stride[1]]);
        d_a[0][j] = d_a[1][j];
        d_a[1][j] = d_a[2][j];
        d_a[2][j] = 0.0f;
      }
    }
  }

  if (!p.d_weight.present() && !p.d_bias.present()) return;
  for (int tap = 0; tap < 9; ++tap) partial[threadIdx.y][tap][threadIdx.x] = d_weight[tap];
  partial[threadIdx.y][9][threadIdx.x] = d_bias;
  __syncthreads();
  if (channel >= hidden) return;
  float* row = p.workspace + worker * kConvGluTerms * hidden + channel;
  for (int term = threadIdx.y; term < kConvGluTerms; term += blockDim.y) {
    float sum = 0.0f;
    for (unsigned strip = 0; strip < blockDim.y; ++strip) sum += partial[strip][term][threadIdx.x];
    row[term * hidden] = sum;
  }
}

}  // namespace transnext
