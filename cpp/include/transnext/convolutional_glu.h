// convolutional_glu: the whole channel mixer of a block with its norm and its residual,
//
//   out = x + fc2(GELU(depthwise 3x3 (a)) * g),   (a, g) = fc1(LayerNorm(x))
//
// while holding the hidden features of only a few rows of an image.
#pragma once

#include "transnext/linear.h"

namespace transnext {

struct ConvolutionalGluParams {
  View<3> x;  // [B, N, C] T
  LayerNormParams norm;
  PackedWeight value_weight;  // [hidden, C]: fc1's first half, the convolution's input
  PackedWeight gate_weight;   // [hidden, C]: its second half
  View<1> fc1_bias;           // [2 hidden] C(P), optional
  View<4> conv_weight;        // [hidden, 1, 3, 3] C(P)
  View<1> conv_bias;          // [hidden] C(P), optional
  PackedWeight fc2_weight;    // [C, hidden]
  View<1> fc2_bias;           // [C] C(P), optional
  View<3> out;                // [B, N, C] T, not x
  Grid grid;
};

namespace cpu {
void convolutional_glu(const ConvolutionalGluParams& params, int threads);
}

}  // namespace transnext
