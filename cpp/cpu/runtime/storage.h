// Selects the types that a kernel is compiled for by the element type that a tensor has at run
// time.
#pragma once

#include "cpu/runtime/level_types.h"
#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(TRANSNEXT_ALL_TYPES)  // a level on its own, in tests
constexpr unsigned kLevelTypes = level_types::kAll;
#else
constexpr unsigned kLevelTypes = level_types::TRANSNEXT_CPU_LEVEL;
#endif
constexpr bool has_type(DType dtype) {
  return (kLevelTypes & type_bit(dtype)) != 0;
}
constexpr bool kHasFloat64 = has_type(DType::kFloat64);
constexpr bool kHasFloat32 = has_type(DType::kFloat32);

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

// Calls function(Storage<T>{}) for the storage type of a tensor; the caller has checked the type,
// and the level has kernels of its arithmetic.
template <class Function>
inline void with_storage(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(Storage<Half>{});
    case DType::kBFloat16:
      return function(Storage<BFloat16>{});
    case DType::kFloat64:
      if constexpr (kHasFloat64) function(Storage<double>{});
      return;
    default:
      return function(Storage<float>{});
  }
}

// The same for a tensor whose type is the kernel's.
template <class Function>
inline void with_kernel_storage(DType dtype, Function&& function) {
  if constexpr (has_type(DType::kFloat16)) {
    if (dtype == DType::kFloat16) return function(Storage<Half>{});
  }
  if constexpr (has_type(DType::kBFloat16)) {
    if (dtype == DType::kBFloat16) return function(Storage<BFloat16>{});
  }
  if constexpr (kHasFloat64) {
    if (dtype == DType::kFloat64) return function(Storage<double>{});
  }
  if constexpr (kHasFloat32) function(Storage<float>{});
}

// Calls function(C{}) for the compute type of a kernel's type.
template <class Function>
inline void with_compute(DType dtype, Function&& function) {
  if constexpr (kHasFloat64) {
    if (dtype == DType::kFloat64) return function(double{});
  }
  function(float{});
}

TRANSNEXT_END_LEVEL
