// Thread block of the add_layer_norm kernels, shared by the kernels and their launch plan.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr unsigned kAddLayerNormLanes = 32;
constexpr unsigned kAddLayerNormRun = 4;    // channels of a lane at a time
constexpr unsigned kAddLayerNormWarps = 8;  // of a block, at most: each has tokens of its own

// Backward: the rows of sums that a warp keeps, of d_weight, d_bias and, where it is wanted,
// d_branch_bias; none if `any` is false.
TRANSNEXT_INLINE int add_layer_norm_sums(bool any, bool branch_bias) {
  return any ? (branch_bias ? 3 : 2) : 0;
}

// Floats of a token's row in shared memory.
TRANSNEXT_INLINE index_t add_layer_norm_row(index_t channels) {
  return (channels + kAddLayerNormRun - 1) / kAddLayerNormRun * kAddLayerNormRun;
}

}  // namespace transnext
