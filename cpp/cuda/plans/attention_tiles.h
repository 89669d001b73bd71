// Choices common to the launch plans of the attention kernels.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/kernels/attention/shape.h"
#include "cuda/plans/tiles.h"
#include "transnext/tensor.h"

namespace transnext {

// Of an activation.
inline int element_bytes(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

// The kernels' head dim for `channels`, padded with zeros.
inline int padded_channels(index_t channels) {
  for (const int padded : {24, 32, 64, 128}) {
    if (channels <= padded) return padded;
  }
  throw std::invalid_argument(
      "aggregated_attention: the CUDA kernels take head dims up to 128, got " +
      std::to_string(channels));
}

// Dynamic shared memory that a block may use, without what the driver reserves.
inline int most_shared_bytes(int architecture) {
  switch (architecture) {
    case 75:
      return 64 * 1024;
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 * 1024;
    default:
      return architecture < 75 ? 48 * 1024 : architecture < 90 ? 99 * 1024 : 227 * 1024;
  }
}

}  // namespace transnext
