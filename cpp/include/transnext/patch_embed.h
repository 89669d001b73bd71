// patch_embed: a strided convolution of a map and the LayerNorm of its tokens,
//
//   out[b, (i, j)] = LayerNorm(bias + sum over (dy, dx, c) of
//                              weight[., c, dy, dx] x[b, c, stride i + dy - pad, stride j + dx - pad])
//
// with pad = kernel / 2 and zeros outside the map.
#pragma once

#include "transnext/linear.h"

namespace transnext {

struct PatchEmbedParams {
  View<4> x;  // [B, C, H, W], any floating-point type and strides
  // [columns, kernel^2 C], the depth in the order (c, dy, dx) or, with channels_last, (dy, dx, c):
  // whichever matches x's memory.
  PackedWeight weight;
  bool channels_last;
  View<1> bias;  // [columns] C(P), optional
  LayerNormParams norm;
  index_t kernel;
  index_t stride;
  View<3> out;  // [B, N, columns], any floating-point type
  Grid grid;    // of out
};

namespace cpu {
void patch_embed(const PatchEmbedParams& params, int threads);
}

}  // namespace transnext
