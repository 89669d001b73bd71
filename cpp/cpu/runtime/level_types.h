// The types that each level compiles kernels for. A kernel runs on the best level that has one for
// its type (dispatch.cpp), so a level leaves out what it would hardly run faster than the level
// below it: compile time is most of an installation. A kernel's type is that of its activations or,
// for those around a packed GEMM, that of the weight.
#pragma once

#include "transnext/linear.h"

namespace transnext::cpu {

constexpr unsigned type_bit(DType dtype) {
  return 1u << static_cast<unsigned>(dtype);
}

namespace level_types {

constexpr unsigned kBFloat16 = type_bit(DType::kBFloat16);
constexpr unsigned kSingle = kBFloat16 | type_bit(DType::kFloat16) | type_bit(DType::kFloat32);
constexpr unsigned kAll = kSingle | type_bit(DType::kFloat64);

constexpr unsigned baseline = kAll;
constexpr unsigned neon = kAll;
constexpr unsigned avx2 = kAll;
// Float64 is for checks of gradients, not for speed.
constexpr unsigned avx512 = kSingle;
// Their instructions are on bfloat16 alone.
constexpr unsigned avx512_bf16 = kBFloat16;
constexpr unsigned neon_bf16 = kBFloat16;
// And float32 split into it.
constexpr unsigned amx_bf16 = kBFloat16 | type_bit(kSplitFloat);
constexpr unsigned amx_emulated = amx_bf16;

}  // namespace level_types
}  // namespace transnext::cpu
