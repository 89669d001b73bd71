// conv_glu backward: with D = d_out and u as forward,
//
//   d_g       = D GELU(u)
//   d_u       = D g GELU'(u)
//   d_a[n, c] = sum_t weight[c, t] d_u[n - offset_t, c]
//   d_weight[c, t] = sum_n d_u[n, c] a[n + offset_t, c],   d_bias[c] = sum_n d_u[n, c]
//   d_x_bias = sum_n of d_a and of d_g
//
// One channel per thread. u is recomputed, over a halo of one column and row, from three rows of a
// in registers (halo two); d_a is accumulated as u is in the forward. Bytes per element 5 sizeof(T)
// (a, g, D in, d_a, d_g out); about 1.7 (18 + 40) + 36 flops. Parameters' gradients stay in
// registers over all strips of a warp, those of x_bias, for which there are none left, in shared
// memory; each block stores one row of partial sums, which partial_sums.cuh adds in order, so
// results are deterministic.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/multiprocessor.cuh"
#include "cuda/kernels/common/partial_sums.cuh"
#include "cuda/kernels/glu/conv_glu_strip.cuh"

namespace transnext {

namespace device {

// A thread's channel of the backward pass, over all strips of its warp.
template <class T>
class ConvGluChannel {
 public:
  float d_weight[9] = {};
  float d_bias = 0.0f;

  // d_x_bias: in shared memory, the thread's sums of the gradients of its value and of its gate;
  // volatile, since a compiler would keep them in registers.
  __device__ ConvGluChannel(const ConvGluBackwardParams& p, int channel,
                            const ConvGluWeights<kConvGluLanes>& weights,
                            volatile float (*d_x_bias)[kConvGluLanes])
      : p_(p),
        weights_(weights),
        d_x_bias_(d_x_bias),
        channel_(channel),
        bias_(conv_glu_bias(p.bias, channel)) {
    d_x_bias[0][threadIdx.x] = 0.0f;
    d_x_bias[1][threadIdx.x] = 0.0f;
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
    const auto next_row_of_a = [&](int row) {
      float value_bias[1];
      weights_.read(static_cast<int>(threadIdx.x), kConvGluValueBias, value_bias);
      const bool row_inside = row >= 0 && row < height;
#pragma unroll
      for (int j = 0; j < kColumns + 4; ++j) {
        const int column = left + j - 2;
        a[0][j] = a[1][j];
        a[1][j] = a[2][j];
        a[2][j] = values[j].read();
        if (row_inside && column >= 0 && column < width) a[2][j] += value_bias[0];
      }
    };
    prefetch_values(strip.top - 2);
    next_row_of_a(strip.top - 2);
    prefetch_values(strip.top - 1);
    next_row_of_a(strip.top - 1);
    prefetch_values(strip.top);
    for (int row = strip.top - 1; row <= strip.bottom; ++row) {
      prefetch_gradients(row);
      next_row_of_a(row + 1);
      float d_u[kColumns + 2];  // initially D, of columns left - 1 to left + 4
      float g[kColumns + 2];
      const float gate_bias = weights_.element(static_cast<int>(threadIdx.x), kConvGluGateBias);
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        d_u[j] = gradients[j].read();        // zeros outside the image
        g[j] = gates[j].read() + gate_bias;  // times D, so of no weight outside the image
      }
      const bool own = row >= strip.top && row < strip.bottom;
      T* to_gate = d_gate;
      float d_gates = 0.0f;
#pragma unroll
      for (int j = 0; j < kColumns + 2; ++j) {
        float u = bias_;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) u += weight_[tap] * a[tap / 3][j + tap % 3];
        const Normal normal(u);
        if (j > 0 && j <= kColumns) {
          const float d_g = d_u[j] * u * normal.distribution;  // zero outside the image
          d_gates += d_g;
          if (own && writes && left + j - 1 < width) from_float(d_g, *to_gate);
          to_gate += p_.d_x.stride[1];
        }
        d_u[j] *= g[j] * normal.gelu_slope(u);
      }
      if (own) {
        add_to_sum(1, d_gates);
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
      float d_values = 0.0f;
#pragma unroll
      for (int j = 0; j < kColumns; ++j, to_value += p_.d_x.stride[1]) {
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight_[tap] * d_u[j + 2 - tap % 3];
        if (row > strip.top && left + j < width) {
          d_values += d_a[0][j];
          if (writes) from_float(d_a[0][j], *to_value);
        }
        d_a[0][j] = d_a[1][j];
        d_a[1][j] = d_a[2][j];
        d_a[2][j] = 0.0f;
      }
      add_to_sum(0, d_values);
      d_gate += p_.d_x.stride[1] * width;
      d_value += p_.d_x.stride[1] * width;
    }
  }

 private:
  static constexpr int kColumns = kConvGluColumns;

  __device__ void add_to_sum(int half, float added) const {
    d_x_bias_[half][threadIdx.x] = d_x_bias_[half][threadIdx.x] + added;
  }

  const ConvGluBackwardParams& p_;
  const ConvGluWeights<kConvGluLanes>& weights_;
  volatile float (*d_x_bias_)[kConvGluLanes];
  int channel_;
  float bias_;
  float weight_[9];
};

}  // namespace device

// Block (32, strips). Grid: (32 channels, worker). A worker handles every workers-th group of strips
// and stores workspace[worker, terms, hidden] if a parameter gradient is wanted.
template <class T>
__global__ void __launch_bounds__(kConvGluLanes* kConvGluStrips,
                                  device::multiprocessor_threads() / kConvGluBackwardDivisor)
    conv_glu_backward(ConvGluBackwardParams p) {
  __shared__ float partial[kConvGluStrips][kConvGluTerms][kConvGluLanes];
  __shared__ device::ConvGluWeights<kConvGluLanes> weights;
  const int hidden = static_cast<int>(p.d_out.shape[2]);
  const int channel = static_cast<int>(blockIdx.x * kConvGluLanes + threadIdx.x);
  const auto strips = static_cast<unsigned>(device::conv_glu_strips(p.x.shape[0], p.grid));

  const int first_channel = channel - static_cast<int>(threadIdx.x);
  weights.load(p.weight, p.x_bias, first_channel, hidden - first_channel);
  __syncthreads();
  device::ConvGluChannel<T> mine(p, channel < hidden ? channel : 0, weights,
                                 partial[threadIdx.y] + kConvGluTerms - 2);
  if (channel < hidden) {
    for (unsigned number = blockIdx.y * blockDim.y + threadIdx.y; number < strips;
         number += gridDim.y * blockDim.y)
      mine.add_strip(device::ConvGluStrip(number, p.grid));
  }

  if (!p.d_weight.present() && !p.d_bias.present() && !p.d_x_bias.present()) return;
  for (int tap = 0; tap < 9; ++tap) partial[threadIdx.y][tap][threadIdx.x] = mine.d_weight[tap];
  partial[threadIdx.y][9][threadIdx.x] = mine.d_bias;
  __syncthreads();
  if (channel >= hidden) return;
  const int terms = conv_glu_terms(p.d_x_bias.present());
  float* row = p.workspace + index_t{blockIdx.y} * terms * hidden + channel;
  for (int term = static_cast<int>(threadIdx.y); term < terms;
       term += static_cast<int>(blockDim.y)) {
    float sum = 0.0f;
    for (unsigned strip = 0; strip < blockDim.y; ++strip) sum += partial[strip][term][threadIdx.x];
    row[index_t{term} * hidden] = sum;
  }
}

}  // namespace transnext
