// Strips of the image and the weights of a block's channels, for forward and backward of conv_glu.
//
// Lanes run along channels, so accesses are runs of consecutive elements. A warp walks down a strip
// of four columns, with a halo column on each side, and keeps the rows it needs in registers; the
// next row is prefetched in its storage type. The neighbouring warp also loads the halo columns, so
// they come from the L1 cache. Only the parameters go through shared memory.
#pragma once

#include "cuda/kernels/common/runs.cuh"
#include "cuda/kernels/glu/conv_glu_shape.h"
#include "transnext/conv_glu.h"

namespace transnext::device {

// A warp's strip: rows [top, bottom) and columns from `left` on of an image.
struct ConvGluStrip {
  index_t batch;
  int left;
  int top;
  int bottom;

  // Strips are numbered columns first, then bands, then images.
  __device__ ConvGluStrip(unsigned number, Grid grid) {
    const auto height = static_cast<unsigned>(grid.height);
    const auto across = static_cast<unsigned>(conv_glu_strips_across(grid.width));
    const auto bands = static_cast<unsigned>(conv_glu_bands(grid.height));
    const unsigned image = number / (across * bands);
    const unsigned rest = number - image * (across * bands);
    const unsigned band = rest / across;
    batch = image;
    left = static_cast<int>(rest - band * across) * kConvGluColumns;
    // Bands of equal height; the first ones take one of the remaining rows each.
    const unsigned rows = height / bands;
    const unsigned higher = height - rows * bands;
    top = static_cast<int>(band * rows + (band < higher ? band : higher));
    bottom = top + static_cast<int>(rows + (band < higher ? 1 : 0));
  }
};

__device__ inline index_t conv_glu_strips(index_t batch, Grid grid) {
  return batch * conv_glu_bands(grid.height) * conv_glu_strips_across(grid.width);
}

__device__ inline float conv_glu_bias(const View<1>& bias, index_t channel) {
  return bias.present() ? static_cast<const float*>(bias.data)[channel * bias.stride[0]] : 0.0f;
}

// Weights of a block's channels by tap, read from global memory in memory order, then x_bias of
// their values and of their gates. The rows are padded so that writes have few bank conflicts and
// reads of channel runs have none.
constexpr int kConvGluValueBias = 9;
constexpr int kConvGluGateBias = 10;
template <int kChannels>
struct ConvGluWeights {
  static constexpr int kPitch = kChannels + 4;
  float taps[11 * kPitch];

  // Of `count` channels, perhaps more than there is room for, from the first one on.
  __device__ void load(const View<4>& weight, const View<1>& x_bias, index_t first_channel,
                       index_t count) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < 2 * kChannels;
         i += static_cast<int>(blockDim.x * blockDim.y)) {
      const int half = i / kChannels;
      const int channel = i % kChannels;
      taps[(kConvGluValueBias + half) * kPitch + channel] =
          channel < count ? conv_glu_bias(x_bias, first_channel + channel + half * weight.shape[0])
                          : 0.0f;
    }
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
  // Read at each call: volatile, since a compiler would keep it in a register that a kernel may not
  // have.
  __device__ float element(int channel, int row) const {
    const volatile float* of_row = taps + row * kPitch;
    return of_row[channel];
  }
  template <int n>
  __device__ void read(int channel, int tap, float (&to)[n]) const {
    const Run<float, n> run =
        *reinterpret_cast<const Run<float, n>*>(taps + tap * kPitch + channel);
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = run.values[i];
  }
};

}  // namespace transnext::device
