// Strips of the conv_glu kernels, shared by the kernels and their launch plan.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kConvGluLanes = 32;
constexpr int kConvGluRun = 2;      // forward: channels of a thread; backward: one
constexpr int kConvGluColumns = 4;  // columns of a strip
constexpr int kConvGluStrips = 4;   // warps of a block, at most
constexpr int kConvGluBlocks = 5;   // of a multiprocessor, at least, forward: 96 registers
// Backward: registers suffice for a quarter of a multiprocessor's threads, in blocks of 128.
constexpr int kConvGluBackwardDivisor = 4 * 128;

// Partial sums: gradients of nine weights, of the bias and, where it has one, of the two halves of
// x_bias.
constexpr int kConvGluTerms = 12;
TRANSNEXT_INLINE int conv_glu_terms(bool x_bias_gradient) {
  return x_bias_gradient ? kConvGluTerms : kConvGluTerms - 2;
}

// Rows of a strip: bands of equal height, at most kConvGluRows. The halo, two rows forward and four
// backward, is small beside that.
constexpr int kConvGluRows = 16;
TRANSNEXT_INLINE index_t conv_glu_bands(index_t height) {
  return (height + kConvGluRows - 1) / kConvGluRows;
}
TRANSNEXT_INLINE index_t conv_glu_strips_across(index_t width) {
  return (width + kConvGluColumns - 1) / kConvGluColumns;
}

}  // namespace transnext
