// Coordinates in an image of tokens.
#pragma once

#include "transnext/tensor.h"

namespace transnext::device {

__device__ inline bool inside(Grid grid, int row, int column) {
  return row >= 0 && row < static_cast<int>(grid.height) && column >= 0 &&
         column < static_cast<int>(grid.width);
}

}  // namespace transnext::device
