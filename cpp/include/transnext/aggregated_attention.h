// aggregated_attention: local window and pooled keys under one softmax (Shi, TransNeXt, CVPR 2024,
// arXiv 2311.17132).
//
//   qn  = q / max(|q|, 1e-12), kn and kpn likewise
//   s   = log(number of window cells inside the image at n + P)
//   qh  = (qn + query_embedding) scale s
//   l_j = qh . kn(n + offset_j) + local_bias_j          -infinity outside the image
//   p_m = qh . kpn(m) + pool_bias(n, m)
//   a   = softmax(l, p);   log_sum_exp = log(sum_j exp l_j + sum_m exp p_m)
//   w_j = a_j + qn . tokens_j + token_bias_j
//   out = sum_j w_j v(n + offset_j) + sum_m a_{L+m} vp(m)
//
// Window cells are numbered as in window.h. Global attention is window_size = 0 without k and v.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

// The bias of the pooled logits: absent, dense ([h, N, P], no maps), or a table with two axis maps,
// where for n = i W + j and m = a Wp + b
//   bias(head, n, m) = sum_t col_weights[j, b, t] table[head, row_map[i, a], col_map[j, b, t]].
struct PoolBias {
  View<3> values;       // [h, N, P] or [h, R, S] C(T), optional
  View<2> row_map;      // [H, Hp] int32; absent for a dense bias
  View<3> col_map;      // [W, Wp, taps] int32; absent for a dense bias
  View<3> col_weights;  // [W, Wp, taps] C(T), optional (then taps is 1 and the weight 1)

  TRANSNEXT_INLINE bool dense() const { return values.present() && !row_map.present(); }
  TRANSNEXT_INLINE bool table() const { return values.present() && row_map.present(); }
};

struct AggregatedAttentionInputs {
  View<4> q;                // [B, N, h, d] T, not normalised
  View<4> k;                // [B, N, h, d] T, absent if window_size is 0
  View<4> v;                // [B, N, h, d] T, absent if window_size is 0
  View<4> k_pool;           // [B, P, h, d] T
  View<4> v_pool;           // [B, P, h, d] T
  View<1> scale;            // [h] C(T)
  View<2> query_embedding;  // [h, d] C(T), optional
  View<2> local_bias;       // [h, L] C(T), optional
  PoolBias pool_bias;
  View<3> tokens;      // [h, d, L] C(T), optional
  View<2> token_bias;  // [h, L] C(T), optional
  Grid grid;
  Grid pool_grid;
  index_t window_size;
};

struct AggregatedAttentionParams {
  AggregatedAttentionInputs in;
  View<4> out;          // [B, N, h, d] T
  View<3> log_sum_exp;  // [B, N, h] C(T), optional: for the backward
  // CUDA: float operands of QK^T and PV over the pooled keys may be rounded to TF32.
  bool allow_tf32 = false;
};

// Absent gradients are not computed.
struct AggregatedAttentionBackwardParams {
  View<4> d_out;        // [B, N, h, d] T
  View<4> out;          // [B, N, h, d] T
  View<3> log_sum_exp;  // [B, N, h] C(T)
  AggregatedAttentionInputs in;
  View<4> d_q;                // [B, N, h, d] T, optional
  View<4> d_k;                // [B, N, h, d] T, optional
  View<4> d_v;                // [B, N, h, d] T, optional
  View<4> d_k_pool;           // [B, P, h, d] T, optional
  View<4> d_v_pool;           // [B, P, h, d] T, optional
  View<1> d_scale;            // [h] C(T), optional
  View<2> d_query_embedding;  // [h, d] C(T), optional
  View<2> d_local_bias;       // [h, L] C(T), optional
  View<3> d_pool_bias;        // as pool_bias.values, contiguous, optional
  View<3> d_tokens;           // [h, d, L] C(T), optional
  View<2> d_token_bias;       // [h, L] C(T), optional
  // CUDA: sums the table's gradient in a fixed order instead of by atomic additions. All other
  // results are always bitwise reproducible.
  bool deterministic = false;
};

namespace cpu {
void aggregated_attention(const AggregatedAttentionParams& params, int threads);
void aggregated_attention_backward(const AggregatedAttentionBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
