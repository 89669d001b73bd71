// Rows of token vectors in shared memory, shared by the kernels and their launch plans.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

// Bytes from row to row: an odd multiple of 16.
TRANSNEXT_INLINE constexpr int token_row_bytes(int channels, int element_size) {
  const int pieces = (channels * element_size + 15) / 16;
  return (pieces + 1 - pieces % 2) * 16;
}

// The head dims that kernels are compiled for; a smaller one is padded with zeros.
constexpr int kTokenRowChannels[] = {24, 32, 64, 128};

}  // namespace transnext
