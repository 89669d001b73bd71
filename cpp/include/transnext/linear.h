// linear: out = LayerNorm(x) W^T + bias + residual, with the norm, the bias and the residual
// optional; and the packing of W, for it and for the fused blocks.
//
// The GEMM runs in float32, float64, bfloat16 (with float32 sums), or in float32 split into bfloat16.
// A weight is packed for that type P, whatever the storage types.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

// The type P of products of float32 that are split into three of bfloat16 (cpu/simd/split_float.h):
// 32 bits are two parts. Only levels with a tile unit have them, for tensors of float32.
constexpr DType kSplitFloat = DType::kInt32;

// A weight [columns, depth] packed by pack_weight: opaque, the same for every CPU level.
struct PackedWeight {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;  // P
  index_t columns = 0;
  index_t depth = 0;
};

struct PackWeightParams {
  View<2> weight;  // [columns, depth], any floating-point type
  View<1> packed;  // [packed_weight_size] P
};

// Columns of a panel of a packed weight (cpu/gemm/packed_gemm.h): a multiple of every level's
// vector width and of 24, the published models' head dim.
constexpr index_t kPanelColumns = 48;

// The depth of a packed weight's panels: for bfloat16, and float32 split into it, whole tiles of the
// tile unit (simd/tiles.h).
TRANSNEXT_INLINE index_t packed_depth(DType dtype, index_t depth) {
  return dtype == DType::kBFloat16 || dtype == kSplitFloat ? (depth + 31) / 32 * 32 : depth;
}

// Elements of a packed weight: whole panels.
TRANSNEXT_INLINE index_t packed_weight_size(DType dtype, index_t columns, index_t depth) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns * packed_depth(dtype, depth);
}

struct LayerNormParams {
  View<1> weight;  // [depth] C(P), absent: no norm
  View<1> bias;    // [depth] C(P)
  double epsilon = 0;
};

struct LinearParams {
  View<2> x;  // [M, depth], any floating-point type
  LayerNormParams norm;
  PackedWeight weight;
  View<1> bias;      // [columns] C(P), optional
  View<2> residual;  // [M, columns] of out's type, optional; may be out itself
  View<2> out;       // [M, columns], any floating-point type
};

namespace cpu {
void pack_weight(const PackWeightParams& params, int threads);
void linear(const LinearParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
