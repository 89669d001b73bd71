// deformable_attention: what multi-scale deformable attention computes between its Linears,
//
//   out[b, n, h] = sum over samples s of a[b, n, h, s] * value_l[b, h](place[b, n, h, s]),
//   a = softmax over s of logits,  place = reference + unit * offset, in cells of level l,
//
// value_l being bilinear between the cells' centres of a level and zero outside. Samples lie level
// by level, the same number on each. Offsets from a point count cells (unit = 1); those from a box,
// with a centre and sides, half of its sides divided by the points of a level.
//
// With u_c the bilinear shares of the four cells c around a place and D_c = d_out . value[c], zero
// where there is no cell, the gradients are
//
//   d_value[c] += a u_c d_out,                    d_a = sum over c of u_c D_c,
//   d_logits = a (d_a - sum over s of a d_a),     d_place = a * sum over c of D_c grad u_c,
//   d_offsets = unit * d_place,                   d_reference: the same chain, over heads and points.
//
// At a cell's centre, where a bilinear map has a kink, grad u_c is that towards larger coordinates.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kMostLevels = 64;
constexpr int kLargestSide = 1 << 24;  // of a level: float32 still counts its cells

// One of the maps that lie one after the other.
struct Level {
  int rows;
  int columns;
  int first;  // of its cells
};

struct Levels {
  Level of[kMostLevels];
  int count;
};

struct DeformableInputs {
  View<4> value;      // [B, S, h, d] T: the levels' cells one after the other, row by row
  View<5> offsets;    // [B, N, h, samples, 2] T: (x, y)
  View<4> logits;     // [B, N, h, samples] T
  View<4> reference;  // [B, N, levels, 2 or 4] C(T): (x, y) or (cx, cy, w, h), 1 being a side
  Levels levels;      // which make S cells
};

struct DeformableAttentionParams {
  DeformableInputs in;
  View<4> out;  // [B, N, h, d] T
};

struct DeformableAttentionBackwardParams {
  DeformableInputs in;
  View<4> d_out;        // [B, N, h, d] T
  View<4> d_value;      // [B, S, h, d] T, optional
  View<5> d_offsets;    // [B, N, h, samples, 2] T, optional
  View<4> d_logits;     // [B, N, h, samples] T, optional
  View<4> d_reference;  // [B, N, levels, 2 or 4] C(T), optional
  // On a GPU; on a CPU sums have an order of their own.
  bool deterministic = false;
};

namespace cpu {
void deformable_attention(const DeformableAttentionParams& params, int threads);
void deformable_attention_backward(const DeformableAttentionBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
