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
// Lanes lie along channels, so that accesses are runs of consecutive elements. A warp walks down a
// strip of four columns: each row that it loads, with a halo column on each side, adds to the three
// rows of outputs that lie in registers, of which the uppermost is then finished. The next row is on
// its way meanwhile, as it lies in memory. The halo columns were loaded by the neighbouring warp and
// come from the L1 cache. Only the weights go through shared memory.
//
// Forward, two channels per thread: bytes per output 3 sizeof(T) (a, g in, out), requested
// (6/4 18/16 + 2) / 3 = 1.23 times that at a full band; 18 flops and a GELU of about 25.
//
// Backward, one channel per thread: u is computed again, over a halo of one column and row, from
// three rows of a that lie in registers (halo two); d_a is summed as u is. Bytes per element 5
// sizeof(T) (a, g, D in, d_a, d_g out); about 1.7 (18 + 40) + 36 flops. Gradients of weights stay
// in registers over all strips of a warp and leave its block as one row of partial sums, which
// partial_sums.cuh adds: deterministic.
#pragma once

#include "device/conv_glu_shape.h"
#include "device/math.cuh"
#include "device/multiprocessor.cuh"
#include "device/partial_sums.cuh"
#include "device/runs.cuh"
#include "transnext/conv_glu.h"

namespace transnext {

namespace device {

// Where a warp's strip lies: rows [top, bottom) and columns from `left` of an image.
struct ConvGluStrip {
  index_t batch;
  int left;
  int top;
  int bottom;

  // Strips are numbered columns first, then bands, then images; there are less than 2^32, since each
  // has 64 tokens or a side of the image.
  __device__ ConvGluStrip(unsigned number, Grid grid) {
    const auto height = static_cast<unsigned>(grid.height);
    const auto across = static_cast<unsigned>(conv_glu_strips_across(grid.width));
    const auto bands = static_cast<unsigned>(conv_glu_bands(grid.height));
    const unsigned image = number / (across * bands);
    const unsigned rest = number - image * (across * bands);
    const unsigned band = rest / across;
    batch = image;
    left = static_cast<int>(rest - band * across) * kConvGluColumns;
    // Bands of equal height, the first ones higher by the rows that are left over.
    const unsigned rows = height / bands;
    const unsigned higher = height - rows * bands;
    top = static_cast<int>(band * rows + (band < higher ? band : higher));
    bottom = top + static_cast<int>(rows + (band < higher ? 1 : 0));
  }
};

__device__ inline index_t conv_glu_strips(index_t batch, Grid grid) {
  return batch * conv_glu_bands(grid.height) * conv_glu_strips_across(grid.width);
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

// A strip forward, two channels of a thread; `runs` of them are single accesses.
template <bool kRuns, class T, int kChannels>
__device__ inline void conv_glu_strip_forward(const ConvGluParams& p, const ConvGluStrip& strip,
                                              index_t first_channel,
                                              const ConvGluWeights<kChannels>& weights) {
  constexpr int kRun = kConvGluRun;
  constexpr int kColumns = kConvGluColumns;
  const int lane_channel = static_cast<int>(threadIdx.x) * kRun;
  const index_t channel = first_channel + lane_channel;
  const index_t hidden = p.out.shape[2];
  const index_t count = hidden - channel;
  const int width = static_cast<int>(p.grid.width);
  const int height = static_cast<int>(p.grid.height);
  const int left = strip.left;

  float weight[9][kRun];
  float bias[kRun];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) weights.read(lane_channel, tap, weight[tap]);
#pragma unroll
  for (int i = 0; i < kRun; ++i) bias[i] = conv_glu_bias(p.bias, i < count ? channel + i : channel);

  // Of the row to be asked for, a's from the halo column on, g's of the row above; the output's row.
  const index_t step = p.x.stride[1];
  const index_t token = index_t{strip.top - 1} * width + left;
  const T* value = static_cast<const T*>(p.x.data) + strip.batch * p.x.stride[0] +
                   channel * p.x.stride[2] + (token - 1) * step;
  const T* gate = value + hidden * p.x.stride[2] - (width - 1) * step;
  T* target = static_cast<T*>(p.out.data) + strip.batch * p.out.stride[0] +
              channel * p.out.stride[2] + (token - width) * p.out.stride[1];

  // A row ahead where registers allow it.
  constexpr bool kAhead = kRuns && sizeof(T) == 2;
  RawRun<T, kRun> values[kColumns + 2];
  RawRun<T, kRun> gates[kColumns];
  const auto ask_values = [&](int row) {
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
  const auto ask_gates = [&](int row) {  // of the row above
    const T* from = gate;
#pragma unroll
    for (int j = 0; j < kColumns; ++j, from += step) {
      gates[j] = {};
      if (row > strip.top && left + j < width) gates[j].load(from, p.x.stride[2], count, kRuns);
    }
    gate += step * width;
  };

  float sum[3][kColumns][kRun];  // of the rows above, at and below the one that is added
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) sum[0][j][i] = sum[1][j][i] = bias[i];
  }
  if (kAhead) {
    ask_values(strip.top - 1);
    ask_gates(strip.top - 1);
  }
  for (int row = strip.top - 1; row <= strip.bottom; ++row) {
    if (!kAhead) {
      ask_values(row);
      ask_gates(row);
    }
    float added[kColumns + 2][kRun];
#pragma unroll
    for (int j = 0; j < kColumns + 2; ++j) values[j].read(added[j]);
    RawRun<T, kRun> gates_above[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) gates_above[j] = gates[j];
    if (kAhead && row < strip.bottom) {
      ask_values(row + 1);
      ask_gates(row + 1);
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
        for (int i = 0; i < kRun; ++i) result[i] *= gelu(sum[0][j][i]);
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

template <class T>
struct GradientsAhead {
  static constexpr bool value = true;
};
template <>
struct GradientsAhead<BFloat16> {  // whose conversions take more registers
  static constexpr bool value = false;
};

// A thread's channel of the backward pass, over all strips of its warp.
template <class T>
class ConvGluChannel {
 public:
  float d_weight[9] = {};
  float d_bias = 0.0f;

  __device__ ConvGluChannel(const ConvGluBackwardParams& p, int channel,
                            const ConvGluWeights<kConvGluLanes>& weights)
      : p_(p), channel_(channel), bias_(conv_glu_bias(p.bias, channel)) {
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      float weight[1];
      weights.read(static_cast<int>(threadIdx.x), tap, weight);
      weight_[tap] = weight[0];
    }
  }

  __device__ void take(const ConvGluStrip& strip) {
    const int width = static_cast<int>(p_.grid.width);
    const int height = static_cast<int>(p_.grid.height);
    const int left = strip.left;
    const bool writes = p_.d_x.present();
    // Of the rows to be asked for: a's from two columns before the strip on, g's and D's from one.
    const index_t step = p_.x.stride[1];
    const index_t token = index_t{strip.top - 2} * width + left;
    const index_t hidden = p_.d_out.shape[2];
    const T* value = static_cast<const T*>(p_.x.data) + strip.batch * p_.x.stride[0] +
                     channel_ * p_.x.stride[2] + (token - 2) * step;
    const T* gate = value + hidden * p_.x.stride[2] + (width + 1) * step;
    const T* gradient = static_cast<const T*>(p_.d_out.data) + strip.batch * p_.d_out.stride[0] +
                        channel_ * p_.d_out.stride[2] + (token + width - 1) * p_.d_out.stride[1];
    // Of the rows to be written: d_g's, and d_a's above it.
    T* d_value = static_cast<T*>(p_.d_x.data) + strip.batch * p_.d_x.stride[0] +
                 channel_ * p_.d_x.stride[2] + token * p_.d_x.stride[1];
    T* d_gate = d_value + hidden * p_.d_x.stride[2] + width * p_.d_x.stride[1];

    RawElement<T> values[kColumns + 4];
    RawElement<T> gates[kColumns + 2];
    RawElement<T> gradients[kColumns + 2];
    const auto ask_values = [&](int row) {
      const bool row_inside = row >= 0 && row < height;
      const T* from = value;
#pragma unroll
      for (int j = 0; j < kColumns + 4; ++j, from += step) {
        const int column = left + j - 2;
        values[j] = {};
        if (row_inside && column >= 0 && column < width) values[j].load(from);
      }
      value += step * width;
    };
    const auto ask_gradients = [&](int row) {
      const bool row_inside = row >= 0 && row < height;
      const T* from = gate;
      const T* from_gradient = gradient;
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j, from += step, from_gradient += p_.d_out.stride[1]) {
        const int column = left + j - 1;
        gates[j] = gradients[j] = {};
        if (row_inside && column >= 0 && column < width) {
          gates[j].load(from);
          gradients[j].load(from_gradient);
        }
      }
      gate += step * width;
      gradient += p_.d_out.stride[1] * width;
    };

    float a[3][kColumns + 4] = {};  // of columns left - 2 to left + 5, rows above, at, below `row`
    float d_a[3][kColumns] = {};    // sums of those rows
    const auto next_row_of_a = [&] {
#pragma unroll
      for (int j = 0; j < kColumns + 4; ++j) {
        a[0][j] = a[1][j];
        a[1][j] = a[2][j];
        a[2][j] = values[j].read();
      }
    };
    ask_values(strip.top - 2);
    next_row_of_a();
    ask_values(strip.top - 1);
    next_row_of_a();
    ask_values(strip.top);
    if (kAhead) ask_gradients(strip.top - 1);
    for (int row = strip.top - 1; row <= strip.bottom; ++row) {
      if (!kAhead) ask_gradients(row);
      next_row_of_a();
      float d_u[kColumns + 2];  // D at first, of columns left - 1 to left + 4
      float g[kColumns + 2];
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        d_u[j] = gradients[j].read();  // zeros outside the image
        g[j] = gates[j].read();
      }
      const bool own = row >= strip.top && row < strip.bottom;
      T* to_gate = d_gate;
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        float u = bias_;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) u += weight_[tap] * a[tap / 3][j + tap % 3];
        const Normal normal(u);
        if (j > 0 && j <= kColumns) {
          if (own && writes && left + j - 1 < width)
            from_float(d_u[j] * u * normal.distribution, *to_gate);
          to_gate += p_.d_x.stride[1];
        }
        d_u[j] *= g[j] * normal.gelu_slope(u);
      }
      // Registers are free for the next rows from here on, and, after the weights' gradients, more.
      if (kAhead && row < strip.bottom) ask_gradients(row + 1);
      if (own) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          d_bias += d_u[j + 1];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap)
            d_weight[tap] += d_u[j + 1] * a[tap / 3][j + 1 + tap % 3];
        }
      }
      if (row < strip.bottom) ask_values(row + 2);
      T* to_value = d_value;
#pragma unroll
      for (int j = 0; j < kColumns; ++j, to_value += p_.d_x.stride[1]) {
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight_[tap] * d_u[j + 2 - tap % 3];
        if (writes && row > strip.top && left + j < width) from_float(d_a[0][j], *to_value);
        d_a[0][j] = d_a[1][j];
        d_a[1][j] = d_a[2][j];
        d_a[2][j] = 0.0f;
      }
      d_gate += p_.d_x.stride[1] * width;
      d_value += p_.d_x.stride[1] * width;
    }
  }

 private:
  static constexpr int kColumns = kConvGluColumns;
  // Whether registers suffice for g and D of the next row too.
  static constexpr bool kAhead = GradientsAhead<T>::value;

  const ConvGluBackwardParams& p_;
  int channel_;
  float bias_;
  float weight_[9];
};

}  // namespace device

// Block (32, strips). Grid: (group of strips, 64 channels), channels fastest.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips, kConvGluBlocks)
    conv_glu_forward(ConvGluParams p) {
  constexpr int kChannels = kConvGluLanes * kConvGluRun;
  __shared__ __align__(8) device::ConvGluWeights<kChannels> weights;
  const index_t hidden = p.out.shape[2];
  const bool runs = hidden % kConvGluRun == 0 && device::has_runs<T, kConvGluRun>(p.x) &&
                    device::has_runs<T, kConvGluRun>(p.out);
  const index_t groups = (hidden + kChannels - 1) / kChannels;
  const index_t strips = device::conv_glu_strips(p.x.shape[0], p.grid);
  const index_t blocks = (strips + blockDim.y - 1) / blockDim.y;

  for (index_t work = blockIdx.x; work < blocks * groups; work += gridDim.x) {
    const index_t block = work / groups;
    const index_t first_channel = (work - block * groups) * kChannels;
    const auto number = static_cast<unsigned>(block * blockDim.y + threadIdx.y);
    __syncthreads();  // nobody reads the weights before any more
    weights.load(p.weight, first_channel, hidden - first_channel);
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

// Block (32, strips). Grid: (worker, 32 channels), channels fastest; a worker takes every
// workers-th group of strips and leaves workspace[worker, kConvGluTerms, hidden], if a parameter's
// gradient is wanted.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips,
                                  device::multiprocessor_threads() / kConvGluBackwardShare)
    conv_glu_backward(ConvGluBackwardParams p) {
  __shared__ float partial[kConvGluStrips][kConvGluTerms][kConvGluLanes];
  __shared__ device::ConvGluWeights<kConvGluLanes> weights;
  const index_t hidden = p.d_out.shape[2];
  const index_t groups = (hidden + kConvGluLanes - 1) / kConvGluLanes;
  const int channel = static_cast<int>(blockIdx.x % groups * kConvGluLanes + threadIdx.x);
  const auto worker = static_cast<unsigned>(blockIdx.x / groups);
  const auto workers = static_cast<unsigned>(gridDim.x / groups);
  const auto strips = static_cast<unsigned>(device::conv_glu_strips(p.x.shape[0], p.grid));

  const int first_channel = channel - static_cast<int>(threadIdx.x);
  weights.load(p.weight, first_channel, hidden - first_channel);
  __syncthreads();
  device::ConvGluChannel<T> mine(p, channel < hidden ? channel : 0, weights);
  if (channel < hidden) {
    for (unsigned number = worker * blockDim.y + threadIdx.y; number < strips;
         number += workers * blockDim.y)
      mine.take(device::ConvGluStrip(number, p.grid));
  }

  if (!p.d_weight.present() && !p.d_bias.present()) return;
  for (int tap = 0; tap < 9; ++tap) partial[threadIdx.y][tap][threadIdx.x] = mine.d_weight[tap];
  partial[threadIdx.y][9][threadIdx.x] = mine.d_bias;
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
