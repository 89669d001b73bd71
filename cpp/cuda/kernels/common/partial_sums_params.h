// The second stage of a deterministic reduction: blocks left one row of partial sums each in the
// workspace, and these are added in the rows' order.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct PartialSumsParams {
  float* workspace;
  index_t offset;  // of the first partial sum
  index_t rows;    // of partial sums
  index_t stride;  // from row to row, of consecutive elements
  View<3> out;     // [a, b, c] float32, an element of the rows each, c running fastest
};

}  // namespace transnext
