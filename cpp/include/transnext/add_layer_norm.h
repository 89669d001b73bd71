// add_layer_norm: a residual sum and the LayerNorm that follows it.
//
//   total  = x + branch_scale (branch + branch_bias)
//   normed = xhat weight + bias,   xhat = (total - mean) / sqrt(variance + epsilon)
//
// Backward, with g = d_normed weight and means over the channels of a token:
//
//   d_x = d_total + (g - mean(g) - xhat mean(g xhat)) / sqrt(variance + epsilon)
//   d_branch = branch_scale d_x,   d_weight = sum d_normed xhat,   d_bias = sum d_normed
//   d_branch_bias = sum d_branch
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct AddLayerNormParams {
  View<3> branch;        // [B, N, C] T
  View<3> x;             // [B, N, C] C(T)
  View<1> weight;        // [C] C(T)
  View<1> bias;          // [C] C(T)
  View<1> branch_scale;  // [B] C(T), optional
  View<1> branch_bias;   // [C] C(T), optional
  View<3> normed;        // [B, N, C] T
  View<3> total;         // [B, N, C] C(T)
  double epsilon;
};

struct AddLayerNormBackwardParams {
  View<3> d_normed;       // [B, N, C] T
  View<3> d_total;        // [B, N, C] C(T), optional
  View<3> total;          // [B, N, C] C(T)
  View<1> weight;         // [C] C(T)
  View<1> branch_scale;   // [B] C(T), optional
  View<3> d_branch;       // [B, N, C] T, optional as all gradients
  View<3> d_x;            // [B, N, C] C(T)
  View<1> d_weight;       // [C] C(T)
  View<1> d_bias;         // [C] C(T)
  View<1> d_branch_bias;  // [C] C(T)
  double epsilon;
  float* workspace = nullptr;  // of the CUDA kernels: [blocks, sums, C] partial sums
};

namespace cpu {
void add_layer_norm(const AddLayerNormParams& params, int threads);
void add_layer_norm_backward(const AddLayerNormBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
