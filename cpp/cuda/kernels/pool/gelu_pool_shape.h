// Thread block of the gelu_pool kernels, shared by the kernels and their launch plan.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr unsigned kGeluPoolRun = 2;     // channels of a thread
constexpr unsigned kGeluPoolLanes = 40;  // threads along channels, at most
constexpr unsigned kGeluPoolBlocks = 2;  // of a multiprocessor, at least: 96 registers
constexpr unsigned kGeluPoolRows = 8;    // threads of a channel, at most; forward they split a bin
constexpr int kGeluPoolAtOnce = 4;       // loads in flight per thread, forward
constexpr int kGeluPoolPairAtOnce = 2;   // and backward, each with its gradient
constexpr unsigned kGeluPoolColumns = 128;  // backward: tokens of a block, at most

// Backward: the number of blocks that split an image row.
TRANSNEXT_INLINE index_t gelu_pool_row_parts(index_t width) {
  return (width + kGeluPoolColumns - 1) / kGeluPoolColumns;
}

}  // namespace transnext
