// One element of a strided tensor.
#pragma once

#include "cpu/runtime/level.h"
#include "transnext/tensor.h"

TRANSNEXT_BEGIN_LEVEL

template <class E, int kRank, class... Indices>
inline E& element(const View<kRank>& view, Indices... indices) {
  static_assert(sizeof...(Indices) == kRank);
  const index_t at[] = {static_cast<index_t>(indices)...};
  index_t offset = 0;
  for (int i = 0; i < kRank; ++i) offset += at[i] * view.stride[i];
  return static_cast<E*>(view.data)[offset];
}

TRANSNEXT_END_LEVEL
