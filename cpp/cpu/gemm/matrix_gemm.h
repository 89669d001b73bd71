// The inner loop of the packed GEMM for Arm's matrix products of bfloat16 (FEAT_BF16): `bfmmla` adds
// to 2 x 2 sums the product of 2 rows and 2 columns of 4 k each, 32 flops.
//
// A tile has up to 4 pairs of rows and 4 pairs of columns: 16 vectors of sums, and per 4 k 8 loads of
// half a vector of rows, 4 vectors of columns and 4 permutations for 16 products. The panel's pairs
// of k of one column and the next two k of it lie a row of the panel apart; `zip` joins them.
#pragma once

#include "cpu/gemm/packed_gemm.h"

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>

TRANSNEXT_BEGIN_LEVEL

constexpr int kMatrixColumns = 8;  // of a tile

// The rows 2 kPairs by 8 columns, those of a panel from b on.
template <int kPairs>
inline void multiply_row_pairs(const LeftRows<BFloat16>& a, const BFloat16* b, index_t depth,
                               const float* start, float* sums) {
  float32x4_t sum[kPairs][4];
#pragma GCC unroll 4
  for (int pair = 0; pair < kPairs; ++pair) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const float32x2_t columns = vld1_f32(start + 2 * v);
      sum[pair][v] = vcombine_f32(columns, columns);
    }
  }
  const auto* left = reinterpret_cast<const unsigned short*>(a.data);
  const auto* right = reinterpret_cast<const unsigned short*>(b);
  constexpr index_t kRow = 2 * kPanelColumns;  // of the panel: 2 k
  for (index_t k = 0; k < depth; k += 4, right += 2 * kRow) {
    bfloat16x8_t columns[4];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const uint32x4_t first = vreinterpretq_u32_u16(vld1q_u16(right + 8 * half));
      const uint32x4_t next = vreinterpretq_u32_u16(vld1q_u16(right + kRow + 8 * half));
      columns[2 * half] = vreinterpretq_bf16_u32(vzip1q_u32(first, next));
      columns[2 * half + 1] = vreinterpretq_bf16_u32(vzip2q_u32(first, next));
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      const unsigned short* row = left + 2 * pair * a.stride + k;
      const bfloat16x8_t rows =
          vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(row), vld1_u16(row + a.stride)));
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[pair][v] = vbfmmlaq_f32(sum[pair][v], rows, columns[v]);
    }
  }
#pragma GCC unroll 4
  for (int pair = 0; pair < kPairs; ++pair) {
    float* to = sums + 2 * pair * kPanelColumns;
#pragma GCC unroll 2
    for (int v = 0; v < 4; v += 2, to += 4) {
      const float32x4_t one = sum[pair][v];
      const float32x4_t two = sum[pair][v + 1];
      vst1q_f32(to, vcombine_f32(vget_low_f32(one), vget_low_f32(two)));
      vst1q_f32(to + kPanelColumns, vcombine_f32(vget_high_f32(one), vget_high_f32(two)));
    }
  }
}

template <int kPairs>
inline void multiply_row_pairs(const LeftRows<BFloat16>& a, index_t rows, const BFloat16* b,
                               index_t depth, const float* start, float* sums) {
  index_t row = 0;
  for (; row + 2 * kPairs <= rows; row += 2 * kPairs)
    multiply_row_pairs<kPairs>({a.data + row * a.stride, a.stride}, b, depth, start,
                               sums + row * kPanelColumns);
  if (row == rows) return;
  const LeftRows<BFloat16> rest{a.data + row * a.stride, a.stride};
  sums += row * kPanelColumns;
  // An odd row's partner is a spare one.
  if constexpr (kPairs > 1) {
    multiply_row_pairs<kPairs / 2>(rest, rows - row, b, depth, start, sums);
  } else {
    multiply_row_pairs<1>(rest, b, depth, start, sums);
  }
}

// sums = a strip of rows by a panel, as multiply_panel describes.
inline void multiply_in_matrices(const LeftRows<BFloat16>& a, index_t rows,
                                 const Panels<BFloat16>& panels, index_t panel, const float* start,
                                 float* sums) {
  static_assert(kPanelColumns % kMatrixColumns == 0);
  for (index_t column = 0; column < panels.used(panel); column += kMatrixColumns)
    multiply_row_pairs<4>(a, rows, panels.at(panel, column), panels.depth, start + column,
                          sums + column);
}

TRANSNEXT_END_LEVEL

#endif
