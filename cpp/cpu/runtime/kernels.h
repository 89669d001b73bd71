// The list of CPU kernels, which generates their declarations per level, the tables of function
// pointers and the public entry points (dispatch.cpp).
#pragma once

#include "transnext/add_layer_norm.h"
#include "transnext/aggregated_attention.h"
#include "transnext/attention_branch.h"
#include "transnext/conv_glu.h"
#include "transnext/convolutional_glu.h"
#include "transnext/deformable_attention.h"
#include "transnext/fingerprint.h"
#include "transnext/gelu_pool.h"
#include "transnext/linear.h"
#include "transnext/patch_embed.h"
#include "transnext/pooled_linear.h"
#include "transnext/position_bias_table.h"
#include "transnext/token_norm.h"
#include "transnext/weight_gradient.h"
#include "transnext/window.h"

// X(function, Params) for each kernel `void function(const Params& params, int threads)`: those
// around the packed GEMM, the only ones that the level neon_bf16 has;
#define TRANSNEXT_FOR_EACH_GEMM_KERNEL(X)      \
  X(convolutional_glu, ConvolutionalGluParams) \
  X(linear, LinearParams)                      \
  X(pack_weight, PackWeightParams)             \
  X(patch_embed, PatchEmbedParams)
// those that gain from a tile unit, the only ones that levels with one have;
#define TRANSNEXT_FOR_EACH_TILE_KERNEL(X)            \
  TRANSNEXT_FOR_EACH_GEMM_KERNEL(X)                  \
  X(aggregated_attention, AggregatedAttentionParams) \
  X(weight_gradient, WeightGradientParams)
// those that gain from instructions on bfloat16, the only ones that the level avx512_bf16 has;
#define TRANSNEXT_FOR_EACH_BFLOAT16_KERNEL(X) \
  TRANSNEXT_FOR_EACH_GEMM_KERNEL(X)           \
  X(conv_glu, ConvGluParams)                  \
  X(conv_glu_backward, ConvGluBackwardParams) \
  X(gelu_pool, GeluPoolParams)                \
  X(gelu_pool_backward, GeluPoolBackwardParams)
// those of every other level;
#define TRANSNEXT_FOR_EACH_LEVEL_KERNEL(X)                            \
  TRANSNEXT_FOR_EACH_BFLOAT16_KERNEL(X)                               \
  X(add_layer_norm, AddLayerNormParams)                               \
  X(add_layer_norm_backward, AddLayerNormBackwardParams)              \
  X(aggregated_attention, AggregatedAttentionParams)                  \
  X(aggregated_attention_backward, AggregatedAttentionBackwardParams) \
  X(deformable_attention, DeformableAttentionParams)                  \
  X(deformable_attention_backward, DeformableAttentionBackwardParams) \
  X(fingerprint, FingerprintParams)                                   \
  X(pooled_linear, PooledLinearParams)                                \
  X(position_bias_table, PositionBiasTableParams)                     \
  X(position_bias_table_backward, PositionBiasTableBackwardParams)    \
  X(token_norm, TokenNormParams)                                      \
  X(weight_gradient, WeightGradientParams)                            \
  X(window_av, WindowAvParams)                                        \
  X(window_av_backward, WindowAvBackwardParams)                       \
  X(window_qk, WindowQkParams)                                        \
  X(window_qk_backward, WindowQkBackwardParams)
// and all of them, with what is composed of others and calls their entry points, so that the
// portable level's serves every level.
#define TRANSNEXT_FOR_EACH_CPU_KERNEL(X) \
  TRANSNEXT_FOR_EACH_LEVEL_KERNEL(X)     \
  X(attention_branch, AttentionBranchParams)

#if defined(TRANSNEXT_CPU_LEVEL)
namespace transnext::cpu::TRANSNEXT_CPU_LEVEL {
#define TRANSNEXT_DECLARE(function, Params) void function(const Params& params, int threads);
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
#undef TRANSNEXT_DECLARE
}  // namespace transnext::cpu::TRANSNEXT_CPU_LEVEL
#endif
