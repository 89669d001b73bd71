// A window of 3 x 3 in the fused attention on tensor cores, Half and BFloat16: its logits join the
// softmax that the pooled keys began, and the tokens' weights, which are outside the softmax, come on
// top.
//
//   w_j = a_j + qn . tokens_j + token_bias_j
//
// A product's 16 queries are a patch of 2 x 8 of the image, whose windows hold 4 x 10 keys: five
// products of 8 keys, of which product n takes columns 2 n and 2 n + 1 of the patch's keys, row by
// row. A lane's query is in column x = lane / 4 of the patch, and its keys are in row y = lane % 4 of
// the patch's: of the products' ten columns x, x + 1, x + 2 are in its window, window row y in the
// patch's first row of queries (half 0) and y - 1 in the second one.
#pragma once

#include "device/attention_products.cuh"
#include "device/attention_window.cuh"

namespace transnext::device {

// Whether a storage type has fewer exponents than float.
template <class T>
constexpr bool kIsNarrow = false;
template <>
constexpr bool kIsNarrow<Half> = true;

template <class Tile, class T, int kDim>
struct WindowProducts {
  static constexpr int kWindow = 3;
  static constexpr int kWidth = Tile::kColumns + kWindow - 1;
  static constexpr int kHalo = kWidth * (Tile::kRows + kWindow - 1);
  static constexpr int kKeyTiles = 5;
  using Rows = SharedRows<T, kDim>;
  static constexpr int kRowPieces = Rows::kRowBytes / kPiece;
  using Queries = ProductQueries<Tile, T, kDim>;
  using Operand = QueryOperand<T, kDim>;

  Rows keys;             // [kHalo]
  Rows values;           // [kHalo]
  float2* key_terms;     // [kHalo]: 1 / |k|, embedding . k
  Rows tokens;           // [kTokenRows], and what their rounding to T left as kTokenRows more
  float4* biases;        // [4]: local bias of a window row; at last the power of two of the tokens
  float4* token_biases;  // [4]
  const float* embedding;  // [kDim]

  // Brings everything into shared memory. The block must synchronise before and after.
  __device__ void load(const AggregatedAttentionInputs& in, int batch, int head,
                       const TilePlace<Tile>& place) const {
    const HeadRows<T> from_keys(in.k, batch, head);
    const HeadRows<T> from_values(in.v, batch, head);
    for_halo<Tile, kWindow, Rows::kPieces>(place, [&](int cell, int piece, int token, bool valid) {
      from_keys.load(keys.piece(cell, piece), token, piece, valid);
      from_values.load(values.piece(cell, piece), token, piece, valid);
    });
    commit_copies();
    const WindowParameters parameters(in, head);
    if (thread_index() < 4) {
      const int row = thread_index();
      float bias[3] = {0.0f, 0.0f, 0.0f};
      float token_bias[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int column = 0; column < kWindow; ++column) {
        if (row == kWindow) break;
        bias[column] = parameters.bias_of(row * kWindow + column);
        token_bias[column] = parameters.token_bias_of(row * kWindow + column);
      }
      biases[row] = float4{bias[0], bias[1], bias[2], 1.0f};
      token_biases[row] = float4{token_bias[0], token_bias[1], token_bias[2], 0.0f};
    }
    __syncthreads();
    if (in.tokens.present()) {
      if (thread_index() < 32) find_scale(parameters);
      __syncthreads();
      load_tokens(parameters);
    }
    wait_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (int cell = thread_index(); cell < kHalo; cell += Tile::kQueries)
      key_terms[cell] = keys.inverse_norm_and_dot(cell, embedding);
  }

  // Ends the softmax of tile t's queries: their out becomes the result, and their terms' maximum and
  // sum are brought to all logits.
  __device__ void take(const AggregatedAttentionInputs& in, const TilePlace<Tile>& place, int t,
                       const Operand& operand, ProductTerms* query_terms, Queries& queries) const {
    const int thread = thread_index();
    const int lane = thread % 32;
    const int x = lane / 4;
    const int y = lane % 4;
    const int top = Tile::row(Queries::first_of(thread, t));
    const int left = Tile::column(Queries::first_of(thread, t));
    // Of a product's key i, which lanes i, i + 8, i + 16 and i + 24 bring.
    const int row = (top + lane % 8 / 2) * kWidth + left + lane % 2;

    float logits[2][kWindow];
    multiply_keys(operand, Operand::keys_of(keys, row, thread), x, logits);

    const int image_row = place.state->top + top + y - 1;
    const int image_column = place.state->left + left + x - 1;
    const float2* terms = key_terms + (top + y) * kWidth + left + x;
    bool valid[2][kWindow];
    float2 highest = {kNoLogit, kNoLogit};
    const ProductTerms first = query_terms[Queries::query_of(thread, t, 0)];
    const ProductTerms second = query_terms[Queries::query_of(thread, t, 1)];
    const float4 first_biases = biases[y];
    const float4 second_biases = biases[y > 0 ? y - 1 : 0];
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const float2 key = terms[j];
      const bool in_image = inside(*place.grid, image_row, image_column + j);
      valid[0][j] = in_image && y < kWindow;
      valid[1][j] = in_image && y > 0;
      const auto logit = [&](const ProductTerms& query, float product, float bias) {
        return (product * query.norm + key.y) * (key.x * query.factor) + bias;
      };
      logits[0][j] = valid[0][j] ? logit(first, logits[0][j], element(first_biases, j)) : kNoLogit;
      logits[1][j] =
          valid[1][j] ? logit(second, logits[1][j], element(second_biases, j)) : kNoLogit;
      highest.x = fmaxf(highest.x, logits[0][j]);
      highest.y = fmaxf(highest.y, logits[1][j]);
    }

    finish(t, 0, highest.x, query_terms, logits[0], queries);
    finish(t, 1, highest.y, query_terms, logits[1], queries);
    if (in.tokens.present() || in.token_bias.present())
      add_token_weights(in.tokens.present(), operand,
                        query_terms[Queries::query_of(thread, t, 0)].norm,
                        query_terms[Queries::query_of(thread, t, 1)].norm, valid, logits);

    float back[2] = {1.0f, 1.0f};
    if constexpr (kIsNarrow<T>) fit(t, logits, back, queries);
    multiply_weights(logits, row, thread, queries.out[t]);
    if constexpr (kIsNarrow<T>) unfit(t, back, queries);
  }

 private:
  // Logits of one half become the softmax's weights, and out is brought to it.
  __device__ static void finish(int t, int half, float highest, ProductTerms* query_terms,
                                float (&logits)[kWindow], Queries& queries) {
    const int thread = thread_index();
    ProductTerms& terms = query_terms[Queries::query_of(thread, t, half)];
    const float before = terms.maximum;
    const float most = Queries::raise(before, highest);
    const float from = softmax_base(most);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      logits[j] = exp_fast(logits[j] - from);
      sum += logits[j];
    }
    const float change = rescale(before, most);
    sum = Queries::over_lanes(sum) + change * terms.sum;
    const float inverse = 1.0f / sum;
    queries.multiply(t, half, change * inverse);
#pragma unroll
    for (int j = 0; j < kWindow; ++j) logits[j] *= inverse;
    __syncwarp();
    if (thread % 4 == 0) {
      terms.maximum = most;
      terms.sum = sum;
    }
  }

  // Tokens may make weights larger than a Half can be: those of such a query, and its output, are
  // divided by a power of two, `back`, for the products.
  __device__ static void fit(int t, float (&weights)[2][kWindow], float (&back)[2],
                             Queries& queries) {
    float most[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float (&w)[kWindow] = weights[half];
      most[half] = fmaxf(fmaxf(fabsf(w[0]), fabsf(w[1])), fabsf(w[2]));
    }
    const bool large = fmaxf(most[0], most[1]) >= bits_to_float(kLargeExponent);
    if (!__any_sync(0xffffffffu, large)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned exponent = float_to_bits(Queries::raise(0.0f, most[half])) & 0x7f800000u;
      if (exponent < kLargeExponent) continue;
      back[half] = bits_to_float(exponent - kLargeExponent + 0x3f800000u);
      const float down = 1.0f / back[half];
#pragma unroll
      for (int j = 0; j < kWindow; ++j) weights[half][j] *= down;
      queries.multiply(t, half, down);
    }
  }
  __device__ static void unfit(int t, const float (&back)[2], Queries& queries) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (__any_sync(0xffffffffu, back[half] != 1.0f)) queries.multiply(t, half, back[half]);
    }
  }
  static constexpr unsigned kLargeExponent = 141u << 23;  // of 2^14

  __device__ static float element(const float4& four, int index) {
    return index == 0 ? four.x : index == 1 ? four.y : four.z;
  }

  // Tokens as columns of two products: column 2 y + x, x < 2, of the first one is the token of window
  // row y and column x, column 2 y of the second one that of column 2; the others are zero. They are
  // scaled by a power of two to below 2 and kept as two numbers of T, so that they are exact to 2^-16
  // (BFloat16) or 2^-22 (Half) of the largest one.
  __device__ void find_scale(const WindowParameters& parameters) const {
    constexpr int kCells = kWindow * kWindow;
    float most = 0.0f;
#pragma unroll 1
    for (int i = thread_index(); i < kDim * kCells; i += 32)
      most = fmaxf(most, fabsf(parameters.token(i % kCells, i / kCells)));
    const unsigned exponent = float_to_bits(warp_max(most)) & 0x7f800000u;
    const bool scaled = exponent > 0 && exponent < 0x7f000000u;
    if (thread_index() == 0) biases[0].w = scaled ? bits_to_float(exponent) : 1.0f;
  }

  __device__ void load_tokens(const WindowParameters& parameters) const {
    const float up = 1.0f / biases[0].w;
#pragma unroll 1
    for (int i = thread_index(); i < kTokenRows * kDim; i += Tile::kQueries) {
      const int column = i / kDim;
      const int c = i % kDim;
      const int y = column % 8 / 2;
      const int x = column / 8 * 2 + column % 2;
      const float token =
          y < kWindow && x < kWindow ? parameters.token(y * kWindow + x, c) * up : 0.0f;
      T high;
      T low;
      from_float(token, high);
      from_float(token - to_float(high), low);
      const int piece = c / Piece<T>::kElements;
      tokens.piece(column, piece)->values[c % Piece<T>::kElements] = high;
      tokens.piece(kTokenRows + column, piece)->values[c % Piece<T>::kElements] = low;
    }
  }

  __device__ void add_token_weights(bool has_tokens, const Operand& operand, float first_norm,
                                    float second_norm, const bool (&valid)[2][kWindow],
                                    float (&weights)[2][kWindow]) const {
    const int lane = thread_index() % 32;
    const int y = lane % 4;
    const Piece<T>* columns = Operand::keys_of(tokens, lane % 8, lane);
    const float scale = biases[0].w;
    // The second half's window row is the column of the lane before.
    const int before = (lane + 31) % 32;
    const float4 first_biases = token_biases[y];
    const float4 second_biases = token_biases[y > 0 ? y - 1 : 0];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (has_tokens) {
        operand.multiply(products, columns + n * 8 * kRowPieces);
        operand.multiply(products, columns + (kTokenRows + n * 8) * kRowPieces);
      }
#pragma unroll
      for (int j = 2 * n; j < kWindow && j < 2 * n + 2; ++j) {
        const float first = products[j % 2];
        const float second = __shfl_sync(0xffffffffu, products[2 + j % 2], before);
        if (valid[0][j]) weights[0][j] += first_norm * scale * first + element(first_biases, j);
        if (valid[1][j]) weights[1][j] += second_norm * scale * second + element(second_biases, j);
      }
    }
  }

  // Products with the patch's keys, of whose columns each lane chooses those from x on. One product
  // after the other: together they would need more registers than are free.
  __device__ void multiply_keys(const Operand& operand, const Piece<T>* keys, int x,
                                float (&chosen)[2][kWindow]) const {
#pragma unroll
    for (int j = 0; j < kWindow; ++j) chosen[0][j] = chosen[1][j] = 0.0f;
#pragma unroll 1
    for (int n = 0; n < kKeyTiles; ++n) {
      float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      operand.multiply(products, keys + n * 2 * kRowPieces);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          const bool mine = 2 * n + e == x + j;
          chosen[0][j] = mine ? products[e] : chosen[0][j];
          chosen[1][j] = mine ? products[2 + e] : chosen[1][j];
        }
      }
    }
  }

  // out += weights values, with weights of zero for the columns of keys beside x to x + 2.
  __device__ void multiply_weights(const float (&weights)[2][kWindow], int row, int thread,
                                   float (&out)[kDim / 8][4]) const {
    const int x = thread % 32 / 4;
    const bool odd = (x & 1) != 0;
    unsigned pairs[2][2];  // the window's columns as those of two neighbouring products
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float (&w)[kWindow] = weights[half];
      pairs[half][0] = pack<T>(odd ? 0.0f : w[0], odd ? w[0] : w[1]);
      pairs[half][1] = pack<T>(odd ? w[1] : w[2], odd ? w[2] : 0.0f);
    }
    const auto pair = [&](int n, int half) {
      const int i = n - x / 2;
      return i == 0 ? pairs[half][0] : i == 1 ? pairs[half][1] : 0u;
    };
    const int later = thread / 8 % 2;  // this lane's key is of the second product of two
#pragma unroll 1
    for (int n = 0; n < kKeyTiles; n += 2) {
      const unsigned a[4] = {pair(n, 0), pair(n, 1), pair(n + 1, 0), pair(n + 1, 1)};
      // Beyond the last product all weights are zero.
      const int cell = row + 2 * (n + 1 < kKeyTiles ? n + later : n);
      multiply_values(out, a, values_of(values, cell, thread));
    }
  }
};

}  // namespace transnext::device
