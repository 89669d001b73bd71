// The second stage of a deterministic reduction: each block has left one row of partial sums in the
// workspace, and the rows are added in order.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct PartialSumsParams {
  float* workspace;
  index_t offset;  // of the first partial sum
  index_t rows;    // of partial sums
  index_t stride;  // from row to row; elements are consecutive
  View<3> out;     // [a, b, c] float32: one element of the rows each, c fastest
};

}  // namespace transnext
