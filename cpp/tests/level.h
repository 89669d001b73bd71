// What the native tests need to know of the level that they are compiled for.
#pragma once

#include <cstdio>
#include <string>

#include "cpu/runtime/processor.h"
#include "cpu/simd/tiles.h"
#include "transnext/tensor.h"

namespace transnext::tests {

// Of what several threads and a forked child run.
#if defined(TRANSNEXT_TILES)
constexpr DType kShared = DType::kBFloat16;
#else
constexpr DType kShared = DType::kFloat32;
#endif

// Whether this processor and system run the level; says why not.
inline bool may_run() {
#if defined(TRANSNEXT_TILES) && !defined(TRANSNEXT_EMULATED_TILES)
  const std::string reason = cpu::has_tiles() ? cpu::tile_refusal() : "no tile unit here";
  if (!reason.empty()) std::printf("%s\n", reason.c_str());
  return reason.empty();
#else
  return true;
#endif
}

}  // namespace transnext::tests
