// The window of the fused attention in float, one thread per query. Its logits join the softmax
// begun by the pooled keys; the tokens' weights, which are outside the softmax, are added.
//
//   w_j = a_j + qn . tokens_j + token_bias_j,  qn = query - embedding
//
// The tokens' part is computed from the query with its embedding: qn . tokens_j + token_bias_j =
// query . tokens_j + (token_bias_j - embedding . tokens_j), where the bracket is one number per
// cell.
#pragma once

#include "cuda/kernels/attention/forward/pooled.cuh"
#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/attention/window_parameters.cuh"
#include "cuda/kernels/common/math.cuh"

namespace transnext::device {

// A window of kWindow x kWindow of float, its keys and then its values in shared memory.
template <class Tile, int kDim, int kWindow>
struct SharedWindow {
  static constexpr int kCells = kWindow * kWindow;
  static constexpr int kWidth = Tile::kColumns + kWindow - 1;
  static constexpr int kHalo = kWidth * (Tile::kRows + kWindow - 1);
  using Rows = SharedRows<float, kDim>;

  Rows rows;               // [kHalo]: keys, then values
  float* norms;            // [kHalo]
  float* tokens;           // [kCells][kDim]
  float* weights;          // [kCells][queries]
  float2* terms;           // [kCells]: local bias, constant part of the token's weight
  const float* embedding;  // [kDim]

  // Loads keys and parameters into shared memory. The block must synchronise before and after.
  __device__ void load(const AggregatedAttentionInputs& in,
                       const TilePosition<Tile>& position) const {
    const int head = position.state->head;
    load_halo(in.k, position);
    commit_copies();
#pragma unroll 1
    for (int i = thread_index(); i < kDim * kCells; i += Tile::kQueries) {
      tokens[i % kCells * kDim + i / kCells] =
          WindowParameters(in, head).token(i % kCells, i / kCells);
    }
    wait_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (int cell = thread_index(); cell < kCells; cell += Tile::kQueries) {
      const WindowParameters parameters(in, head);
      float constant = parameters.token_bias_of(cell);
#pragma unroll 1
      for (int c = 0; c < kDim; ++c) constant -= embedding[c] * tokens[cell * kDim + c];
      terms[cell] = float2{parameters.bias_of(cell), constant};
    }
#pragma unroll 1
    for (int cell = thread_index(); cell < kHalo; cell += Tile::kQueries)
      norms[cell] = rows.inverse_norm(cell);
  }

  // Finishes the softmax of this thread's query: out becomes the result, and the row's maximum and
  // sum then cover all logits. All threads of the block call this together.
  __device__ void accumulate(const AggregatedAttentionInputs& in,
                             const TilePosition<Tile>& position, const float (&query)[kDim],
                             RowTerms& row, float (&out)[kDim]) const {
    float highest = row.maximum;
    // One cell at a time: unrolled, they would need more registers than are free.
#pragma unroll 1
    for (int j = 0; j < kCells; ++j) {
      const int cell = cell_of(j);
      const float logit = rows.dot(cell, query) * (row.factor * norms[cell]) + terms[j].x;
      const bool here = in_image(position, j);
      weight(j) = here ? logit : kNoLogit;
      highest = here ? fmaxf(highest, logit) : highest;
    }
    const float from = softmax_base(highest);
    const float change = rescale(row.maximum, highest);
    row.maximum = highest;
    float sum = row.sum * change;
    row.factor = change;  // the scale is no longer needed
#pragma unroll 1
    for (int j = 0; j < kCells; ++j) {
      weight(j) = exp_fast(weight(j) - from);
      sum += weight(j);
    }
    row.sum = sum;
    const float inverse = 1.0f / sum;
    row.factor *= inverse;
    const bool has_tokens = in.tokens.present() || in.token_bias.present();
    // Also outside the image, where values are zero.
#pragma unroll 1
    for (int j = 0; j < kCells; ++j) {
      float own = weight(j) * inverse;
      if (has_tokens) own = add_token(j, query, own + terms[j].y);
      weight(j) = own;
    }
    __syncthreads();
    load_halo(in.v, position);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kDim; ++c) out[c] *= row.factor;
#pragma unroll 1
    for (int j = 0; j < kCells; ++j) rows.add(cell_of(j), weight(j), out);
  }

 private:
  __device__ void load_halo(const View<4>& view, const TilePosition<Tile>& position) const {
    device::load_halo<Tile, kWindow, float, kDim, 1>({HeadRows<float>(view, *position.state)},
                                                     position, {rows});
  }

  // Of this thread's query: the halo index of cell j of its window, whether the cell is in the
  // image, and its weight.
  __device__ static int cell_of(int j) {
    const int mine = thread_index();
    return (Tile::row(mine) + j / kWindow) * kWidth + Tile::column(mine) + j % kWindow;
  }
  __device__ static bool in_image(const TilePosition<Tile>& position, int j) {
    const int mine = thread_index();
    return inside(*position.grid, position.row(mine) + j / kWindow - kWindow / 2,
                  position.column(mine) + j % kWindow - kWindow / 2);
  }
  __device__ float& weight(int j) const { return weights[j * Tile::kQueries + thread_index()]; }

  // sum + query . tokens_j
  __device__ float add_token(int j, const float (&query)[kDim], float sum) const {
    const auto* four = reinterpret_cast<const float4*>(tokens + j * kDim);
#pragma unroll
    for (int c = 0; c < kDim; c += 4) {
      const float4 token = four[c / 4];
      sum += query[c] * token.x + query[c + 1] * token.y + query[c + 2] * token.z +
             query[c + 3] * token.w;
    }
    return sum;
  }
};

// A query of floats in shared memory, for indices known at compile time.
struct SharedQuery {
  const float4* fours;

  __device__ float operator[](int c) const {
    const float4& four = fours[c / 4];
    return c % 4 == 0 ? four.x : c % 4 == 1 ? four.y : c % 4 == 2 ? four.z : four.w;
  }
};

// A window of any size, or none, read from global memory cell by cell by way of `own`, this thread's row in
// shared memory: vectors are few instructions, which the compiler takes long over for large head dims.
// Query: float[kDim], or a SharedQuery.
template <class T, int kDim, class Query>
__device__ inline void accumulate_any_window(const AggregatedAttentionInputs& in,
                                             const TileState& state, int row, int column,
                                             const WindowParameters& parameters,
                                             const SharedRows<T, kDim>& rows, int own,
                                             const Query& query, float factor, float& maximum,
                                             float& sum, float (&out)[kDim]) {
  const int window = static_cast<int>(in.window_size);
  const HeadRows<T> keys(in.k, state);
  const HeadRows<T> values(in.v, state);
  const auto load = [&](const HeadRows<T>& from, int token) {
#pragma unroll 1
    for (int vector = 0; vector < SharedRows<T, kDim>::kRowVectors16; ++vector)
      from.load(rows.vector(own, vector), token, vector, true);
    commit_copies();
    wait_copies<0>();
  };
  const int height = static_cast<int>(in.grid.height);
  const int width = static_cast<int>(in.grid.width);
  // Only cells inside the image are visited: a window wider than the image has most of its cells
  // outside.
  const int top = row - window / 2;
  const int left = column - window / 2;
  const int first_row = top < 0 ? 0 : top;
  const int last_row = top + window < height ? top + window : height;
  const int first_column = left < 0 ? 0 : left;
  const int last_column = left + window < width ? left + window : width;

  // First the softmax, then the tokens' weights.
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    if (pass == 1) {
      const float inverse = 1.0f / sum;
#pragma unroll
      for (int c = 0; c < kDim; ++c) out[c] *= inverse;
      if (!parameters.has_tokens()) return;
    }
    for (int y = first_row; y < last_row; ++y) {
      for (int x = first_column; x < last_column; ++x) {
        const int cell = (y - top) * window + x - left;
        float weight;
        if (pass == 0) {
          load(keys, y * width + x);
          float dot = 0.0f;
          float square = 0.0f;
          rows.for_elements(own, [&](int c, T element) {
            const float k = to_float(element);
            dot += query[c] * k;
            square += k * k;
          });
          const float norm = inverse_norm(square);
          const float logit = dot * (factor * norm) + parameters.bias_of(cell);
          const float highest = fmaxf(maximum, logit);
          if (highest == kNoLogit) continue;
          const float change = rescale(maximum, highest);
          maximum = highest;
          weight = exp_fast(logit - highest);
          sum = sum * change + weight;
#pragma unroll
          for (int c = 0; c < kDim; ++c) out[c] *= change;
        } else {
          weight = parameters.token_constant(cell) + parameters.dot_token<kDim>(cell, query);
        }
        load(values, y * width + x);
        rows.add(own, weight, out);
      }
    }
  }
}

}  // namespace transnext::device
