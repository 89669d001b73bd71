// window_qk and window_av: the two sliding-window products on their own, head-major.
//
// Cell j = (dy + r) k + (dx + r), r = k // 2, dy and dx in -r .. k-1-r, L = k^2. Outside the image:
// logits are -infinity and have no gradient; values are zero, and no result depends on the
// attention there.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct WindowQkParams {
  View<4> q;     // [B, h, N, d] T
  View<4> k;     // [B, h, N, d] T
  View<2> bias;  // [h, L] C(T), optional
  View<4> attn;  // [B, h, N, L] T
  Grid grid;
  index_t window_size;
};

struct WindowQkBackwardParams {
  View<4> d_attn;  // [B, h, N, L] T
  View<4> q;       // [B, h, N, d] T
  View<4> k;       // [B, h, N, d] T
  View<4> d_q;     // [B, h, N, d] T, optional
  View<4> d_k;     // [B, h, N, d] T, optional
  View<2> d_bias;  // [h, L] C(T), optional
  Grid grid;
  index_t window_size;
};

struct WindowAvParams {
  View<4> attn;  // [B, h, N, L] T
  View<4> v;     // [B, h, N, d] T
  View<4> out;   // [B, h, N, d] T
  Grid grid;
  index_t window_size;
};

struct WindowAvBackwardParams {
  View<4> d_out;   // [B, h, N, d] T
  View<4> attn;    // [B, h, N, L] T
  View<4> v;       // [B, h, N, d] T
  View<4> d_attn;  // [B, h, N, L] T, optional
  View<4> d_v;     // [B, h, N, d] T, optional
  Grid grid;
  index_t window_size;
};

namespace cpu {
void window_qk(const WindowQkParams& params, int threads);
void window_qk_backward(const WindowQkBackwardParams& params, int threads);
void window_av(const WindowAvParams& params, int threads);
void window_av_backward(const WindowAvBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
