// conv_glu forward: with (a, g) the halves of x + x_bias and t the nine taps of the depthwise
// convolution
//
//   u[n, c] = bias[c] + sum_t weight[c, t] a[n + offset_t, c],   out = GELU(u) g
//
// Two channels per thread. Each loaded row of a contributes to three rows of outputs in registers,
// the uppermost of which is then complete. Bytes per output 3 sizeof(T) (a, g in, out); the loads
// and stores request (6/4 18/16 + 2) / 3 = 1.23 times that at a full band; 18 flops and a GELU of
// about 25.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/glu/conv_glu_strip.cuh"

namespace transnext {

namespace device {

// The forward of a strip, two channels per thread. kRuns: whether these are single accesses.
template <bool kRuns, class T, int kChannels>
__device__ inline void conv_glu_strip_forward(const ConvGluParams& p, const ConvGluStrip& strip,
                                              int first_channel,
                                              const ConvGluWeights<kChannels>& weights) {
  constexpr int kRun = kConvGluRun;
  constexpr int kColumns = kConvGluColumns;
  const int lane_channel = static_cast<int>(threadIdx.x) * kRun;
  const int channel = first_channel + lane_channel;
  const int hidden = static_cast<int>(p.out.shape[2]);
  const int count = hidden - channel;
  const int width = static_cast<int>(p.grid.width);
  const int height = static_cast<int>(p.grid.height);
  const int left = strip.left;

  float weight[9][kRun];
  float bias[kRun];
  float gate_bias[kRun];
  weights.read(lane_channel, kConvGluGateBias, gate_bias);
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) weights.read(lane_channel, tap, weight[tap]);
#pragma unroll
  for (int i = 0; i < kRun; ++i) bias[i] = conv_glu_bias(p.bias, i < count ? channel + i : channel);

  // Pointers to the row to prefetch, a from the halo column on and g one row above, and to the
  // output row.
  const index_t step = p.x.stride[1];
  const index_t token = index_t{strip.top - 1} * width + left;
  const T* value = static_cast<const T*>(p.x.data) + strip.batch * p.x.stride[0] +
                   channel * p.x.stride[2] + (token - 1) * step;
  const T* gate = value + hidden * p.x.stride[2] - (width - 1) * step;
  T* target = static_cast<T*>(p.out.data) + strip.batch * p.out.stride[0] +
              channel * p.out.stride[2] + (token - width) * p.out.stride[1];

  // One row ahead where registers allow it.
  constexpr bool kAhead = kRuns && sizeof(T) == 2;
  RawRun<T, kRun> values[kColumns + 2];
  RawRun<T, kRun> gates[kColumns];
  const auto prefetch_values = [&](int row) {
    const bool row_inside = row >= 0 && row < height;
    const T* from = value;
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j, from += step) {
      const int column = left + j - 1;
      values[j] = {};
      if (row_inside && column >= 0 && column < width)
        values[j].load(from, p.x.stride[2], count, kRuns);
    }
    value += step * width;
  };
  const auto prefetch_gates = [&](int row) {  // of the row above
    const T* from = gate;
#pragma unroll
    for (int j = 0; j < kColumns; ++j, from += step) {
      gates[j] = {};
      if (row > strip.top && left + j < width) gates[j].load(from, p.x.stride[2], count, kRuns);
    }
    gate += step * width;
  };

  float sum[3][kColumns][kRun];  // for the rows above, at and below the row being added
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) sum[0][j][i] = sum[1][j][i] = bias[i];
  }
  if (kAhead) {
    prefetch_values(strip.top - 1);
    prefetch_gates(strip.top - 1);
  }
  for (int row = strip.top - 1; row <= strip.bottom; ++row) {
    if (!kAhead) {
      prefetch_values(row);
      prefetch_gates(row);
    }
    float added[kColumns + 2][kRun];
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j) {
      values[j].read(added[j]);
      const int column = left + j - 1;
      if (row < 0 || row >= height || column < 0 || column >= width) continue;  // zeros
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        added[j][i] += weights.element(lane_channel + i, kConvGluValueBias);
    }
    RawRun<T, kRun> gates_above[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) gates_above[j] = gates[j];
    if (kAhead && row < strip.bottom) {
      prefetch_values(row + 1);
      prefetch_gates(row + 1);
    }
    T* to = target;
#pragma unroll
    for (int j = 0; j < kColumns; ++j, to += p.out.stride[1]) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        sum[2][j][i] = bias[i];
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
          sum[2 - tap / 3][j][i] += weight[tap][i] * added[j + tap % 3][i];
      }
      if (row > strip.top && left + j < width) {
        float result[kRun];
        gates_above[j].read(result);
#pragma unroll
        for (int i = 0; i < kRun; ++i) result[i] = (result[i] + gate_bias[i]) * gelu(sum[0][j][i]);
        store_run(to, p.out.stride[2], count, kRuns, result);
      }
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        sum[0][j][i] = sum[1][j][i];
        sum[1][j][i] = sum[2][j][i];
      }
    }
    target += p.out.stride[1] * width;
  }
}

}  // namespace device

// Block (32, strips). Grid: (group of strips, 64 channels), channels fastest.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips, kConvGluBlocks)
    conv_glu_forward(ConvGluParams p) {
  constexpr int kChannels = kConvGluLanes * kConvGluRun;
  __shared__ __align__(8) device::ConvGluWeights<kChannels> weights;
  const int hidden = static_cast<int>(p.out.shape[2]);
  const bool runs = hidden % kConvGluRun == 0 && device::has_runs<T, kConvGluRun>(p.x) &&
                    device::has_runs<T, kConvGluRun>(p.out);
  const int groups = (hidden + kChannels - 1) / kChannels;
  const auto strips = static_cast<unsigned>(device::conv_glu_strips(p.x.shape[0], p.grid));
  const unsigned blocks = (strips + blockDim.y - 1) / blockDim.y;

  for (index_t work = blockIdx.x; work < index_t{blocks} * groups; work += gridDim.x) {
    const index_t block = work / groups;
    const int first_channel = static_cast<int>(work - block * groups) * kChannels;
    const auto number = static_cast<unsigned>(block * blockDim.y + threadIdx.y);
    __syncthreads();  // all have left the previous weights
    weights.load(p.weight, p.x_bias, first_channel, hidden - first_channel);
    __syncthreads();
    if (first_channel + static_cast<int>(threadIdx.x) * kConvGluRun >= hidden || number >= strips)
      continue;
    const device::ConvGluStrip strip(number, p.grid);
    if (runs) {
      device::conv_glu_strip_forward<true, T>(p, strip, first_channel, weights);
    } else {
      device::conv_glu_strip_forward<false, T>(p, strip, first_channel, weights);
    }
  }
}

}  // namespace transnext
