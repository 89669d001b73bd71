// Views of tensors and scratch memory, for kernels that are composed of others.
#pragma once

#include "cpu/attention/tokens.h"

TRANSNEXT_BEGIN_LEVEL

// A contiguous tensor in scratch memory.
template <int kRank>
inline View<kRank> contiguous(void* data, DType dtype, const index_t (&shape)[kRank]) {
  View<kRank> view;
  view.data = data;
  view.dtype = dtype;
  index_t stride = 1;
  for (int i = kRank - 1; i >= 0; --i) {
    view.shape[i] = shape[i];
    view.stride[i] = stride;
    stride *= shape[i];
  }
  return view;
}

// Whether the tokens of all images are equally spaced in memory.
inline bool joined(const View<3>& tensor) {
  return tensor.shape[0] <= 1 || tensor.stride[0] == tensor.shape[1] * tensor.stride[1];
}

// The tokens of joined images as one list.
inline View<2> tokens_of(const View<3>& tensor) {
  View<2> view;
  view.data = tensor.data;
  view.dtype = tensor.dtype;
  view.shape[0] = tensor.shape[0] * tensor.shape[1];
  view.shape[1] = tensor.shape[2];
  view.stride[0] = tensor.stride[1];
  view.stride[1] = tensor.stride[2];
  return view;
}

// Images first .. first + count - 1.
inline View<3> images_of(View<3> tensor, index_t first, index_t count) {
  tensor.data =
      static_cast<char*>(tensor.data) + first * tensor.stride[0] * element_size(tensor.dtype);
  tensor.shape[0] = count;
  return tensor;
}

TRANSNEXT_END_LEVEL
