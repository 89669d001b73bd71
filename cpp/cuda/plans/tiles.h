// Arithmetic that launch plans share.
#pragma once

#include <algorithm>

#include "transnext/tensor.h"

namespace transnext {

inline index_t ceil_divide(index_t value, index_t divisor) {
  return (value + divisor - 1) / divisor;
}

// Blocks along x, the only grid dimension that takes more than 65535. Kernels step on by the grid's
// size, so a launch of fewer blocks than there are tiles is right too.
inline unsigned blocks_for(index_t tiles) {
  constexpr index_t kMostBlocks = (index_t{1} << 31) - 1;
  return static_cast<unsigned>(std::min(tiles, kMostBlocks));
}

}  // namespace transnext
