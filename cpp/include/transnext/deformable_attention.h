// deformable_attention: what multi-scale deformable attention computes between its Linears,
//
//   out[b, n, h] = sum over samples s of a[b, n, h, s] * value_l[b, h](place[b, n, h, s]),
//   a = softmax over s of logits,  place = reference + offset, in cells of level l,
//
// value_l being bilinear between the cells' centres of a level and zero outside. Samples lie level
// by level, the same number on each. Offsets from a point count cells; those from a box, with a
// centre and sides, half of its sides divided by the points of a level.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct DeformableAttentionParams {
  View<4> value;      // [B, S, h, d] T: the levels' cells one after the other, row by row
  View<5> offsets;    // [B, N, h, samples, 2] T: (x, y)
  View<4> logits;     // [B, N, h, samples] T
  View<4> reference;  // [B, N, levels, 2 or 4] C(T): (x, y) or (cx, cy, w, h), 1 being a side
  View<2> shapes;     // [levels, 2] int32: rows and columns, which make S cells
  View<4> out;        // [B, N, h, d] T
};

namespace cpu {
void deformable_attention(const DeformableAttentionParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
