// conv_glu backward: with D = d_out and u as forward,
//
//   d_g       = D GELU(u)
//   d_u       = D g GELU'(u)
//   d_a[n, c] = sum_t weight[c, t] d_u[n - offset_t, c]
//   d_weight[c, t] = sum_n d_u[n, c] a[n + offset_t, c],   d_bias[c] = sum_n d_u[n, c]
//
// One channel per thread. u is recomputed, over a halo of one column and row, from three rows of a
// in registers (halo two); d_a is accumulated as u is in the forward. Bytes per element 5 sizeof(T)
// (a, g, D in, d_a, d_g out); about 1.7 (18 + 40) + 36 flops. Weight gradients stay in registers
// over all strips of a warp; each block stores one row of partial sums, which partial_sums.cuh adds
// in order, so results are deterministic.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/multiprocessor.cuh"
#include "cuda/kernels/common/partial_sums.cuh"
#include "cuda/kernels/glu/conv_glu_strip.cuh"

namespace transnext {

namespace device {

template <class T>
struct GradientsAhead {
  static constexpr bool value = true;
};
template <>
struct GradientsAhead<BFloat16> {  // its conversions need more registers
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

  __device__ void add_strip(const ConvGluStrip& strip) {
    const int width = static_cast<int>(p_.grid.width);
    const int height = static_cast<int>(p_.grid.height);
    const int left = strip.left;
    const bool writes = p_.d_x.present();
    // Pointers to the rows to prefetch: a from two columns before the strip on, g and D from one.
    const index_t step = p_.x.stride[1];
    const index_t token = index_t{strip.top - 2} * width + left;
    const index_t hidden = p_.d_out.shape[2];
    const T* value = static_cast<const T*>(p_.x.data) + strip.batch * p_.x.stride[0] +
                     channel_ * p_.x.stride[2] + (token - 2) * step;
    const T* gate = value + hidden * p_.x.stride[2] + (width + 1) * step;
    const T* gradient = static_cast<const T*>(p_.d_out.data) + strip.batch * p_.d_out.stride[0] +
                        channel_ * p_.d_out.stride[2] + (token + width - 1) * p_.d_out.stride[1];
    // Pointers to the rows to write: d_g, and d_a one row above.
    T* d_value = static_cast<T*>(p_.d_x.data) + strip.batch * p_.d_x.stride[0] +
                 channel_ * p_.d_x.stride[2] + token * p_.d_x.stride[1];
    T* d_gate = d_value + hidden * p_.d_x.stride[2] + width * p_.d_x.stride[1];

    RawElement<T> values[kColumns + 4];
    RawElement<T> gates[kColumns + 2];
    RawElement<T> gradients[kColumns + 2];
    const auto prefetch_values = [&](int row) {
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
    const auto prefetch_gradients = [&](int row) {
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
    float d_a[3][kColumns] = {};    // sums for these rows
    const auto next_row_of_a = [&] {
#pragma unroll
      for (int j = 0; j < kColumns + 4; ++j) {
        a[0][j] = a[1][j];
        a[1][j] = a[2][j];
        a[2][j] = values[j].read();
      }
    };
    prefetch_values(strip.top - 2);
    next_row_of_a();
    prefetch_values(strip.top - 1);
    next_row_of_a();
    prefetch_values(strip.top);
    if (kAhead) prefetch_gradients(strip.top - 1);
    for (int row = strip.top - 1; row <= strip.bottom; ++row) {
      if (!kAhead) prefetch_gradients(row);
      next_row_of_a();
      float d_u[kColumns + 2];  // initially D, of columns left - 1 to left + 4
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
      // From here on there are registers for the next rows, and more after the weight gradients.
      if (kAhead && row < strip.bottom) prefetch_gradients(row + 1);
      if (own) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          d_bias += d_u[j + 1];
#pragma unroll
          for (int tap = 0; tap < 9; ++tap)
            d_weight[tap] += d_u[j + 1] * a[tap / 3][j + 1 + tap % 3];
        }
      }
      if (row < strip.bottom) prefetch_values(row + 2);
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

// Block (32, strips). Grid: (worker, 32 channels), channels fastest; a worker handles every
// workers-th group of strips and stores workspace[worker, kConvGluTerms, hidden] if a parameter
// gradient is wanted.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips,
                                  device::multiprocessor_threads() / kConvGluBackwardDivisor)
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
      mine.add_strip(device::ConvGluStrip(number, p.grid));
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
