// The tokens of a tensor [B, N, C], numbered over all images.
#pragma once

#include "cpu/simd/simd.h"
#include "transnext/tensor.h"

TRANSNEXT_BEGIN_LEVEL

template <class T>
inline T* token(const View<3>& view, index_t number) {
  const index_t tokens = view.shape[1];
  return static_cast<T*>(view.data) + number / tokens * view.stride[0] +
         number % tokens * view.stride[1];
}

TRANSNEXT_END_LEVEL
