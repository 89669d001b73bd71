// Arithmetic common to launch plans.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "transnext/tensor.h"

namespace transnext {

inline index_t ceil_divide(index_t value, index_t divisor) {
  return (value + divisor - 1) / divisor;
}

constexpr index_t kMostBlocks = (index_t{1} << 31) - 1;

// Blocks along x, the only grid dimension that may exceed 65535, of a kernel with a grid-stride
// loop: fewer blocks than tiles are correct too.
inline unsigned blocks_for(index_t tiles) {
  return static_cast<unsigned>(std::min(tiles, kMostBlocks));
}

// Blocks of a kernel with one block per tile.
inline unsigned one_block_each(const char* op, index_t tiles) {
  if (tiles > kMostBlocks)
    throw std::invalid_argument(std::string(op) + ": the CUDA kernels take batches of at most " +
                                std::to_string(kMostBlocks) + " tiles, got " +
                                std::to_string(tiles));
  return static_cast<unsigned>(tiles);
}

}  // namespace transnext
