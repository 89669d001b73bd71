// token_norm: the LayerNorm of tokens,
//
//   out = (x - mean) / sqrt(variance + epsilon) weight + bias
//
// with mean and variance over the channels of a token.
#pragma once

#include "transnext/linear.h"
#include "transnext/tensor.h"

namespace transnext {

struct TokenNormParams {
  View<3> x;             // [B, N, C], any floating-point type
  LayerNormParams norm;  // over C
  View<3> out;           // [B, N, C] of x's type; may be x itself
};

namespace cpu {
void token_norm(const TokenNormParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
