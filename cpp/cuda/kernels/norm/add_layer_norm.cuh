// add_layer_norm on the GPU, T in float, Half, BFloat16; the stream and all arithmetic in float. The
// formulas are in transnext/add_layer_norm.h.
//
// A warp computes one token after the other. Its lanes run along channels, four each, and keep the
// token in shared memory between the passes over it, where each lane reads what it wrote: any number
// of channels works, and no barrier is needed. So every tensor is read or written once: with 16-bit
// branches 12 bytes per channel forward and up to 16 backward, at about 10 and 20 flops: bound by
// memory.
//
// Backward, each warp adds the parameters' gradients of its tokens in shared memory, a block adds
// its warps', and sum_partials the blocks', always in the same order.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/partial_sums.cuh"
#include "cuda/kernels/common/runs.cuh"
#include "cuda/kernels/common/shared_memory.cuh"
#include "cuda/kernels/common/small_divisor.cuh"
#include "cuda/kernels/norm/add_layer_norm_shape.h"
#include "transnext/add_layer_norm.h"

namespace transnext {

namespace device {

// Calls visit(channel, count) for the lane's runs of a token: its first channel, and how many of
// kAddLayerNormRun there are.
template <class Visit>
__device__ inline void for_each_run(int channels, const Visit& visit) {
  constexpr int kStep = kAddLayerNormLanes * kAddLayerNormRun;
  for (int channel = static_cast<int>(threadIdx.x * kAddLayerNormRun); channel < channels;
       channel += kStep)
    visit(channel, channels - channel);
}

// Where a token of [B, N, C] begins.
struct TokenPlace {
  index_t image;
  index_t token;

  __device__ TokenPlace(index_t number, index_t tokens)
      : image(quotient(number, tokens)), token(number - image * tokens) {}

  template <class T>
  __device__ T* in(const View<3>& view) const {
    return static_cast<T*>(view.data) + image * view.stride[0] + token * view.stride[1];
  }
  __device__ float element(const View<1>& of_images) const {
    if (!of_images.present()) return 1.0f;
    return static_cast<const float*>(of_images.data)[image * of_images.stride[0]];
  }
};

// Up to four elements of a parameter, zeros beyond the last channel and for one that is absent.
__device__ inline void read_parameter(const View<1>& view, int channel, int count,
                                      float (&to)[kAddLayerNormRun]) {
  if (!view.present()) count = 0;
#pragma unroll
  for (int i = 0; i < static_cast<int>(kAddLayerNormRun); ++i)
    to[i] = i < count ? static_cast<const float*>(view.data)[(channel + i) * view.stride[0]] : 0.0f;
}

// A view's run of channels as floats.
template <class T>
__device__ inline void read_run(const View<3>& view, const TokenPlace& place, int channel,
                                int count, bool runs, float (&to)[kAddLayerNormRun]) {
  RawRun<T, kAddLayerNormRun> run;
  run.load(place.in<const T>(view) + channel * view.stride[2], view.stride[2], count, runs);
  run.read(to);
}

template <class T>
__device__ inline void write_run(const View<3>& view, const TokenPlace& place, int channel,
                                 int count, bool runs, const float (&from)[kAddLayerNormRun]) {
  store_run(place.in<T>(view) + channel * view.stride[2], view.stride[2], count, runs, from);
}

// Centres the token that the warp's lanes keep in `row`, and returns 1 / sqrt(variance + epsilon).
// `sum` is a lane's share of the channels' sum.
__device__ inline float centre(float* row, int channels, float sum, float epsilon) {
  using Row = Run<float, kAddLayerNormRun>;
  const float mean = warp_sum(sum) / static_cast<float>(channels);
  float square = 0.0f;
  for_each_run(channels, [&](int channel, int count) {
    Row* run = reinterpret_cast<Row*>(row + channel);
    Row values = *run;
#pragma unroll
    for (int i = 0; i < static_cast<int>(kAddLayerNormRun); ++i) {
      values.values[i] = i < count ? values.values[i] - mean : 0.0f;
      square += values.values[i] * values.values[i];
    }
    *run = values;
  });
  return inverse_root_fast(warp_sum(square) / static_cast<float>(channels) + epsilon);
}

}  // namespace device

// Block (kAddLayerNormLanes, warps). Grid: tiles of as many tokens as warps. Dynamic shared memory:
// a row for each warp.
template <class T>
__global__ void __launch_bounds__(kAddLayerNormLanes* kAddLayerNormWarps)
    add_layer_norm_forward(AddLayerNormParams p) {
  constexpr int kRun = kAddLayerNormRun;
  using Row = device::Run<float, kRun>;
  const int channels = static_cast<int>(p.total.shape[2]);  // few, or a row would not fit
  const index_t tokens = p.total.shape[0] * p.total.shape[1];
  float* row = device::dynamic_shared<float>() + threadIdx.y * add_layer_norm_row(channels);
  const bool runs = device::has_runs<float, kRun>(p.x) && device::has_runs<float, kRun>(p.total) &&
                    device::has_runs<T, kRun>(p.normed);
  const bool branch_runs = device::has_runs<T, kRun>(p.branch);  // it may be a constant, expanded
  for (index_t number = index_t{blockIdx.x} * blockDim.y + threadIdx.y; number < tokens;
       number += index_t{gridDim.x} * blockDim.y) {
    const device::TokenPlace place(number, p.total.shape[1]);
    const float scale = place.element(p.branch_scale);
    float sum = 0.0f;
    device::for_each_run(channels, [&](int channel, int count) {
      Row total;
      float added[kRun];
      float added_bias[kRun];
      device::read_run<float>(p.x, place, channel, count, runs, total.values);
      device::read_run<T>(p.branch, place, channel, count, branch_runs, added);
      device::read_parameter(p.branch_bias, channel, count, added_bias);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        total.values[i] += scale * (added[i] + added_bias[i]);
        sum += i < count ? total.values[i] : 0.0f;
      }
      device::write_run<float>(p.total, place, channel, count, runs, total.values);
      *reinterpret_cast<Row*>(row + channel) = total;
    });
    const float inverse = device::centre(row, channels, sum, static_cast<float>(p.epsilon));
    device::for_each_run(channels, [&](int channel, int count) {
      Row values = *reinterpret_cast<const Row*>(row + channel);
      float weight[kRun];
      float bias[kRun];
      device::read_parameter(p.weight, channel, count, weight);
      device::read_parameter(p.bias, channel, count, bias);
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        values.values[i] = values.values[i] * inverse * weight[i] + bias[i];
      device::write_run<T>(p.normed, place, channel, count, runs, values.values);
    });
  }
}

// Block (kAddLayerNormLanes, warps). Grid: blocks that share the tokens, each of which leaves a row
// [sums, C] of partial sums. Dynamic shared memory: rows of each warp for the token, its gradient and,
// where the parameters have gradients, their sums.
template <class T>
__global__ void __launch_bounds__(kAddLayerNormLanes* kAddLayerNormWarps)
    add_layer_norm_backward(AddLayerNormBackwardParams p) {
  constexpr int kRun = kAddLayerNormRun;
  using Row = device::Run<float, kRun>;
  const int channels = static_cast<int>(p.total.shape[2]);  // few, or a row would not fit
  const index_t tokens = p.total.shape[0] * p.total.shape[1];
  const int row_floats = static_cast<int>(add_layer_norm_row(channels));
  const bool has_branch_sums = p.d_branch_bias.present();
  const bool has_sums = p.d_weight.present() || p.d_bias.present() || has_branch_sums;
  const int rows = 2 + add_layer_norm_sums(has_sums, has_branch_sums);
  float* shared = device::dynamic_shared<float>();
  float* row = shared + threadIdx.y * rows * row_floats;
  float* gradients = row + row_floats;
  float* sums = gradients + row_floats;  // of d_weight, d_bias and d_branch_bias
  const bool runs = device::has_runs<T, kRun>(p.d_normed) &&
                    device::has_runs<float, kRun>(p.total) &&
                    (!p.d_total.present() || device::has_runs<float, kRun>(p.d_total)) &&
                    (!p.d_branch.present() || device::has_runs<T, kRun>(p.d_branch)) &&
                    (!p.d_x.present() || device::has_runs<float, kRun>(p.d_x));
  if (has_sums) {
    device::for_each_run(channels, [&](int channel, int) {
      for (int which = 0; which < rows - 2; ++which)
        *reinterpret_cast<Row*>(sums + which * row_floats + channel) = Row{};
    });
  }
  for (index_t number = index_t{blockIdx.x} * blockDim.y + threadIdx.y; number < tokens;
       number += index_t{gridDim.x} * blockDim.y) {
    const device::TokenPlace place(number, p.total.shape[1]);
    float sum = 0.0f;
    device::for_each_run(channels, [&](int channel, int count) {
      Row values;
      device::read_run<float>(p.total, place, channel, count, runs, values.values);
#pragma unroll
      for (int i = 0; i < kRun; ++i) sum += i < count ? values.values[i] : 0.0f;
      *reinterpret_cast<Row*>(row + channel) = values;
    });
    const float inverse = device::centre(row, channels, sum, static_cast<float>(p.epsilon));
    float mean = 0.0f;   // of the gradients
    float slope = 0.0f;  // of their products with xhat
    device::for_each_run(channels, [&](int channel, int count) {
      const Row values = *reinterpret_cast<const Row*>(row + channel);
      float weight[kRun];
      float d_normed[kRun];
      Row gradient;
      device::read_parameter(p.weight, channel, count, weight);
      device::read_run<T>(p.d_normed, place, channel, count, runs, d_normed);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        gradient.values[i] = d_normed[i] * weight[i];
        mean += gradient.values[i];
        slope += gradient.values[i] * (values.values[i] * inverse);
      }
      *reinterpret_cast<Row*>(gradients + channel) = gradient;
      if (!has_sums) return;
      Row* of_weight = reinterpret_cast<Row*>(sums + channel);
      Row* of_bias = reinterpret_cast<Row*>(sums + row_floats + channel);
      Row weight_sums = *of_weight;
      Row bias_sums = *of_bias;
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        weight_sums.values[i] += d_normed[i] * (values.values[i] * inverse);
        bias_sums.values[i] += d_normed[i];
      }
      *of_weight = weight_sums;
      *of_bias = bias_sums;
    });
    mean = device::warp_sum(mean) / static_cast<float>(channels);
    slope = device::warp_sum(slope) / static_cast<float>(channels);
    const float scale = place.element(p.branch_scale);
    device::for_each_run(channels, [&](int channel, int count) {
      const Row values = *reinterpret_cast<const Row*>(row + channel);
      Row gradient = *reinterpret_cast<const Row*>(gradients + channel);
      float d_total[kRun] = {};
      if (p.d_total.present())
        device::read_run<float>(p.d_total, place, channel, count, runs, d_total);
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        gradient.values[i] =
            d_total[i] + (gradient.values[i] - mean - values.values[i] * inverse * slope) * inverse;
      if (p.d_x.present())
        device::write_run<float>(p.d_x, place, channel, count, runs, gradient.values);
#pragma unroll
      for (int i = 0; i < kRun; ++i) gradient.values[i] *= scale;
      if (p.d_branch_bias.present()) {
        Row* of_branch = reinterpret_cast<Row*>(sums + 2 * row_floats + channel);
        Row branch_sums = *of_branch;
#pragma unroll
        for (int i = 0; i < kRun; ++i) branch_sums.values[i] += gradient.values[i];
        *of_branch = branch_sums;
      }
      if (p.d_branch.present())
        device::write_run<T>(p.d_branch, place, channel, count, runs, gradient.values);
    });
  }
  if (!has_sums) return;
  __syncthreads();
  float* partial = p.workspace + index_t{blockIdx.x} * (rows - 2) * channels;
  const index_t thread = index_t{threadIdx.y} * blockDim.x + threadIdx.x;
  for (index_t i = thread; i < (rows - 2) * channels; i += blockDim.x * blockDim.y) {
    const int which = i < channels ? 0 : (i < 2 * channels ? 1 : 2);
    const index_t at = (2 + which) * row_floats + i - which * channels;
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.y; ++warp) sum += shared[warp * rows * row_floats + at];
    partial[i] = sum;
  }
}

}  // namespace transnext
