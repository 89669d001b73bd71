// attention_branch: the whole token mixer of a block with its norm and its residual,
//
//   out = x + proj(attention(projections(LayerNorm(x))))
//
// for aggregated, pixel-focused and global attention. The projections are one GEMM:
//
//   windowed:  q | k | v | s = y W^T,   y = LayerNorm(x)
//              pooled = LayerNorm(gelu_pool(s)),   k_pool | v_pool = the rows k | v of W on pooled
//   global:    q | k | v = y W^T,       no window; k and v replace k_pool and v_pool
#pragma once

#include "transnext/aggregated_attention.h"
#include "transnext/linear.h"

namespace transnext {

struct AttentionBranchParams {
  View<3> x;  // [B, N, C] T
  LayerNormParams norm;
  PackedWeight projections;  // [4 C or 3 C, C]
  View<1> projections_bias;  // [4 C or 3 C] C(P), optional
  LayerNormParams pool_norm;
  PackedWeight pool_projections;  // [2 C, C]: rows C .. 3 C - 1 of `projections`; absent: global
  // Scales, biases, tokens, grids and window; q, k, v, k_pool and v_pool are absent.
  AggregatedAttentionInputs attention;
  index_t heads;
  PackedWeight out_projection;  // [C, C]
  View<1> out_bias;             // [C] C(P), optional
  DType features;               // storage type of q, k, v and of the attention's output
  View<3> out;                  // [B, N, C] T
};

namespace cpu {
void attention_branch(const AttentionBranchParams& params, int threads);
}

}  // namespace transnext
