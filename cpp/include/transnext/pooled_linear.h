// pooled_linear: a classifier's head,
//
//   out[b, k] = bias[k] + sum over c of weight[k, c] mean over n of x[b, n, c]
//
// with means and sums in C(T).
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct PooledLinearParams {
  View<3> x;       // [B, N, C] T
  View<2> weight;  // [K, C] T
  View<1> bias;    // [K] T, optional
  View<3> out;     // [B, 1, K] T
};

namespace cpu {
void pooled_linear(const PooledLinearParams& params, int threads);
}

}  // namespace transnext
