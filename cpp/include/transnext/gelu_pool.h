// gelu_pool: adaptive average pooling of GELU(x), on tokens.
//
// Pooled cell (a, b) averages the bin of rows floor(a H / Hp) .. ceil((a+1) H / Hp) - 1 and columns
// likewise. Bins overlap where Hp does not divide H.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct GeluPoolParams {
  View<3> x;    // [B, N, C] T
  View<3> out;  // [B, P, C] T
  Grid grid;
  Grid pool_grid;
};

struct GeluPoolBackwardParams {
  View<3> d_out;  // [B, P, C] T
  View<3> x;      // [B, N, C] T
  View<3> d_x;    // [B, N, C] T
  Grid grid;
  Grid pool_grid;
};

// The begin and end index of a bin along one axis and, with the two sizes exchanged, of the bins
// that contain a token: i is in bin a <=> a H / Hp < i + 1 and i < (a+1) H / Hp.
TRANSNEXT_INLINE index_t bin_begin(index_t index, index_t bins, index_t size) {
  return index * size / bins;
}
TRANSNEXT_INLINE index_t bin_end(index_t index, index_t bins, index_t size) {
  return ((index + 1) * size + bins - 1) / bins;
}

namespace cpu {
void gelu_pool(const GeluPoolParams& params, int threads);
void gelu_pool_backward(const GeluPoolBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
