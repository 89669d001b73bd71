// conv_glu: with [a, g] = x + x_bias, GELU(depthwise 3x3 convolution of a + bias) * g, on tokens.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct ConvGluParams {
  View<3> x;       // [B, N, 2 hidden] T
  View<4> weight;  // [hidden, 1, 3, 3] C(T)
  View<1> bias;    // [hidden] C(T), optional
  View<1> x_bias;  // [2 hidden] C(T), optional
  View<3> out;     // [B, N, hidden] T
  Grid grid;
};

// Absent gradients are not computed.
struct ConvGluBackwardParams {
  View<3> d_out;     // [B, N, hidden] T
  View<3> x;         // [B, N, 2 hidden] T
  View<4> weight;    // [hidden, 1, 3, 3] C(T)
  View<1> bias;      // [hidden] C(T), optional
  View<1> x_bias;    // [2 hidden] C(T), optional
  View<3> d_x;       // [B, N, 2 hidden] T, optional
  View<4> d_weight;  // [hidden, 1, 3, 3] C(T), optional
  View<1> d_bias;    // [hidden] C(T), optional
  View<1> d_x_bias;  // [2 hidden] C(T), optional
  Grid grid;
  float* workspace = nullptr;  // CUDA only: partial sums, allocated by the launches
};

namespace cpu {
void conv_glu(const ConvGluParams& params, int threads);
void conv_glu_backward(const ConvGluBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
