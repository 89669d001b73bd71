// Selects the types that a kernel is compiled for by the element type that a tensor has at run
// time.
#pragma once

#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

// Storage type T and the type its arithmetic is done in.
template <class T>
struct Storage {
  using Type = T;
  using Compute = float;
};
template <>
struct Storage<double> {
  using Type = double;
  using Compute = double;
};

// Calls function(Storage<T>{}) for the storage type of an activation tensor; the caller has checked
// the type.
template <class Function>
inline void with_storage(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(Storage<Half>{});
    case DType::kBFloat16:
      return function(Storage<BFloat16>{});
    case DType::kFloat64:
      return function(Storage<double>{});
    default:
      return function(Storage<float>{});
  }
}

TRANSNEXT_END_LEVEL
