// aggregated_attention backward, the tokens' side: what blocks that walk down strips (strip.cuh) and blocks
// that own tiles (tile.cuh) have in common.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/row_operand.cuh"
#include "cuda/kernels/attention/window_parameters.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext::device {

struct BackwardState : TileState {
  float scale;
  float no_bias;  // zero
};

// What a patch's queries leave for the pooled keys where other kernels own their gradients.
struct NoPooledWeights {
  template <class Block, class Patch>
  __device__ NoPooledWeights(const Block&, const Patch&, int) {}
  __device__ void add(int, const KeyTerms*, const float (&)[4], const float (&)[4]) const {}
};

// Loads the query embedding, by one warp.
template <class Block>
__device__ inline void load_embedding(const Block& block, const WindowParameters& parameters) {
  const auto of = [&](int c) { return parameters.embedding_of(c); };
  if constexpr (sizeof(typename Block::Element) == 2) {
    block.scaling_embedding().load(of, block.embedding());
  } else {
#pragma unroll 1
    for (int c = thread_index() % 32; c < Block::kChannels; c += 32) block.embedding()[c] = of(c);
  }
}

__device__ inline float inverse_or_zero(float x) {
  return x > 0.0f ? 1.0f / x : 0.0f;
}

// Gradient of a vector through its normalisation, of a lane's channels of the unit vector, times a
// factor. Four lanes hold the vector.
template <int kChunks>
__device__ inline void through_normalisation(const float2 (&unit)[kChunks], float inverse,
                                             float factor, float (&gradient)[kChunks][2]) {
  float along = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks; ++i)
    along += unit[i].x * gradient[i][0] + unit[i].y * gradient[i][1];
  along = sum_of_four(along);
  if (inverse >= 1.0f / kNormEpsilon) along = 0.0f;
  factor *= inverse;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    gradient[i][0] = (gradient[i][0] - unit[i].x * along) * factor;
    gradient[i][1] = (gradient[i][1] - unit[i].y * along) * factor;
  }
}

// Multiplies 16 rows from `first` on by powers of two, so that they are at most 1 long and, unless they
// are tiny, more than 1/2: what is rounded to T then has the magnitude of numbers of T, and products of
// the rows are as exact as before. Calls `store(row, 1 / |row| of the stored row, 1 / |row|, embedding .
// row of the stored row)`.
template <class T, int kDim, class Store>
__device__ inline void scale_rows(const SharedRows<T, kDim>& rows, int first,
                                  const EmbeddingRows<T, kDim>& embedding, const Store& store) {
  const int lane = thread_index() % 32;
  RowOperand<T, kDim> operand;
  operand.load(rows, first);
  const float2 squares = operand.squares(lane);
  const float2 dots = EmbeddingOperand<T, kDim>(embedding, lane).dots(operand);
  const int holder = lane / 4 * 4 + lane / 8;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse =
        __shfl_sync(0xffffffffu, inverse_norm(half == 0 ? squares.x : squares.y), holder);
    const unsigned exponent = float_to_bits(inverse) & 0x7f800000u;
    const float up = exponent > 0 ? bits_to_float(exponent) : 1.0f;
    const float down = exponent > 0 ? bits_to_float(0x7f000000u - exponent) : 1.0f;
    const int row = first + lane / 4 + 8 * half;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      const float2 two = floats_of<T>(operand.parts[i][half]);
      reinterpret_cast<unsigned*>(rows.vector(row, i))[lane % 4] = pack<T>(two.x * up, two.y * up);
    }
    if (lane % 4 == 0) store(row, inverse * down, inverse, (half == 0 ? dots.x : dots.y) * up);
  }
}

// The same of floats, which have the range without it.
template <int kDim, class Store>
__device__ inline void scale_rows(const SharedRows<float, kDim, false>& rows, int first,
                                  const float* embedding, const Store& store) {
  if (thread_index() % 32 >= 16) return;
  const int row = first + thread_index() % 16;
  const float inverse = rows.inverse_norm(row);
  store(row, inverse, inverse, rows.dot(row, embedding));
}

}  // namespace transnext::device
