// Choices common to the launch plans of the attention kernels.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/kernels/attention/shape.h"
#include "cuda/plans/tiles.h"
#include "transnext/aggregated_attention.h"
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

// The kernels index one image and head with int.
inline void check_strides(const char* op, const char* name, const View<4>& view) {
  constexpr index_t kMost = 0x7fffffff;
  for (const int axis : {1, 3}) {
    if (view.present() && (view.stride[axis] > kMost || view.stride[axis] < -kMost))
      throw std::invalid_argument(std::string(op) + ": " + name + " has a stride of " +
                                  std::to_string(view.stride[axis]) +
                                  " elements; the CUDA kernels take less than 2^31");
  }
}

// Whether the rows of all heads are whole vectors of 16 aligned bytes.
inline bool rows_are_vectors(const View<4>& view) {
  if (!view.present()) return true;
  const auto whole = [&](index_t elements) {
    return elements * element_bytes(view.dtype) % kVector16Bytes == 0;
  };
  bool result = reinterpret_cast<std::uintptr_t>(view.data) % kVector16Bytes == 0;
  for (const int axis : {0, 1, 2})
    result = result && (view.shape[axis] == 1 || whole(view.stride[axis]));
  return result && whole(view.shape[3]) && view.stride[3] == 1;
}

// The same of all inputs.
inline void check_strides(const char* op, const AggregatedAttentionInputs& in) {
  check_strides(op, "q", in.q);
  check_strides(op, "k", in.k);
  check_strides(op, "v", in.v);
  check_strides(op, "k_pool", in.k_pool);
  check_strides(op, "v_pool", in.v_pool);
}
inline bool rows_are_vectors(const AggregatedAttentionInputs& in) {
  return rows_are_vectors(in.q) && rows_are_vectors(in.k) && rows_are_vectors(in.v) &&
         rows_are_vectors(in.k_pool) && rows_are_vectors(in.v_pool);
}

}  // namespace transnext
