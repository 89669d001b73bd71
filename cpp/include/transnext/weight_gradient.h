// weight_gradient: of a Linear out = x W^T + bias, from the gradient of its result,
//
//   d_weight[n][k] = sum over tokens of d_out[token][n] x[token][k],   d_bias[n] = sum d_out[token][n]
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct WeightGradientParams {
  View<2> d_out;     // [M, columns] T
  View<2> x;         // [M, depth] T
  View<2> d_weight;  // [columns, depth], any floating-point type
  View<1> d_bias;    // [columns], any floating-point type, optional
};

namespace cpu {
void weight_gradient(const WeightGradientParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
