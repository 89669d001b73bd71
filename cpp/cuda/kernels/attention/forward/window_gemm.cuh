// A window of 3 x 3 in the fused attention on tensor cores, Half and BFloat16: its logits join the
// softmax begun by the pooled keys; the tokens' weights, which are outside the softmax, are added.
//
//   w_j = a_j + qn . tokens_j + token_bias_j
//
// The 16 queries of an MMA are a patch (cuda/kernels/attention/window_columns.cuh): a lane's keys are
// in window row y for the patch's first row of queries (half 0), y - 1 for the second.
#pragma once

#include "cuda/kernels/attention/forward/local_window.cuh"
#include "cuda/kernels/attention/forward/pooled_gemm.cuh"
#include "cuda/kernels/attention/window_columns.cuh"

namespace transnext::device {

// Whether a storage type has fewer exponents than float.
template <class T>
constexpr bool kIsNarrow = false;
template <>
constexpr bool kIsNarrow<Half> = true;

template <class Tile, class T, int kDim>
struct WindowGemm {
  static constexpr int kWindow = WindowColumns::kWindow;
  static constexpr int kWidth = Tile::kColumns + kWindow - 1;
  static constexpr int kHalo = kWidth * (Tile::kRows + kWindow - 1);
  static constexpr int kKeyTiles = WindowColumns::kReachTiles;
  using Rows = SharedRows<T, kDim>;
  static constexpr int kVectorsOfRow = Rows::kRowBytes / kVector16Bytes;
  using Queries = GemmQueries<Tile, T, kDim>;
  using Operand = RowOperand<T, kDim>;

  Rows keys;             // [kHalo]
  Rows values;           // [kHalo]
  float2* key_terms;     // [kHalo, rounded up to 16]: 1 / |k|, embedding . k
  Rows tokens;           // [kTokenRows], then kTokenRows more with their rounding errors
  float4* biases;        // [4]: local bias of a window row
  float4* token_biases;  // [4]
  const EmbeddingRows<T, kDim>& embedding;

  // Loads everything into shared memory. The block must synchronise before and after.
  __device__ void load(const AggregatedAttentionInputs& in,
                       const TilePosition<Tile>& position) const {
    const int head = position.state->head;
    const HeadRows<T> from_keys(in.k, *position.state);
    const HeadRows<T> from_values(in.v, *position.state);
    load_halo<Tile, kWindow, T, kDim, 2>({from_keys, from_values}, position, {keys, values});
    commit_copies();
    if (thread_index() < 4) load_biases(WindowParameters(in, head), thread_index());
    if (in.tokens.present()) load_tokens(WindowParameters(in, head), position.state->token_scale);
    wait_copies<0>();
    __syncthreads();
    for_row_terms<Tile::kQueries, T, kDim>(
        keys, kHalo, embedding,
        [&](int cell, float norm, float dot) { key_terms[cell] = float2{norm, dot}; });
  }

  // Finishes the softmax of tile t's queries: their out becomes the result.
  __device__ void accumulate(const AggregatedAttentionInputs& in,
                             const TilePosition<Tile>& position, int t, const Operand& operand,
                             GemmTerms* query_terms, Queries& queries) const {
    const int thread = thread_index();
    const int lane = thread % 32;
    const int x = lane / 4;
    const int y = lane % 4;
    const int top = Tile::row(Queries::first_of(thread, t));
    const int left = Tile::column(Queries::first_of(thread, t));
    float logits[2][kWindow];
    multiply_keys(operand, Operand::keys_of(keys, cell_of(thread, t, thread % 2), thread), x,
                  logits);

    const TileCorner corner = position.corner();
    const bool row_inside = corner.row_inside(corner.top + top + y - 1);
    const bool valid[2] = {row_inside && y < kWindow, row_inside && y > 0};
    const int column = corner.left + left + x - 1;
    const float2* terms = key_terms + (top + y) * kWidth + left + x;
    const GemmTerms first = query_terms[Queries::query_of(thread, t, 0)];
    const GemmTerms second = query_terms[Queries::query_of(thread, t, 1)];
    const float4 first_biases = biases[y];
    const float4 second_biases = biases[row_before(y)];
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const float2 key = terms[j];
      const bool column_inside = corner.column_inside(column + j);
      const auto exponent = [&](const GemmTerms& query, float product, float bias) {
        const float logit = (product * query.norm + key.y) * (key.x * query.factor) + bias;
        return logit * kLog2E + query.softmax.offset;
      };
      logits[0][j] = exponent(first, logits[0][j], element(first_biases, j));
      logits[1][j] = exponent(second, logits[1][j], element(second_biases, j));
      if (!(valid[0] && column_inside)) logits[0][j] = kNoLogit;
      if (!(valid[1] && column_inside)) logits[1][j] = kNoLogit;
    }

    SoftmaxTerms states[2] = {first.softmax, second.softmax};
    queries.finish(t, logits, states, query_terms);
    if (in.tokens.present() || in.token_bias.present()) {
      const float scale = position.state->token_scale;
      add_token_weights(in.tokens.present(), {first.norm * scale, second.norm * scale}, operand,
                        lane, logits);
    }

    const bool large = kIsNarrow<T> && position.state->large_tokens && any_large(logits);
    if (large) fit(t, logits, query_terms, queries);
    multiply_weights(logits, thread, t, queries.out[t]);
    if (large) unfit(t, query_terms, queries);
  }

  // Finds the scale of the tokens (load_tokens), and whether weights with them may overflow a Half,
  // by one warp.
  __device__ static void measure_tokens(const WindowParameters& parameters, TileState* state) {
    constexpr int kCells = kWindow * kWindow;
    const int lane = thread_index() % 32;
    float most = 0.0f;
#pragma unroll 1
    for (int i = lane; i < kDim * kCells; i += 32)
      most = fmaxf(most, fabsf(parameters.token(i % kCells, i / kCells)));
    const float scale = power_of_largest(most);
    // A weight is at most 1 + |token| + |token_bias|.
    const float bias = lane < kCells ? fabsf(parameters.token_bias_of(lane)) : 0.0f;
    const bool large = !(2.0f * kDim * scale < kLargeWeight) || !(bias < kLargeWeight);
    const bool any = __any_sync(0xffffffffu, large) != 0;
    if (lane != 0) return;
    state->token_scale = scale;
    state->large_tokens = any;
  }

 private:
  // Loads the biases of a window row; row 3 has none.
  __device__ void load_biases(const WindowParameters& parameters, int row) const {
    float bias[3] = {0.0f, 0.0f, 0.0f};
    float token_bias[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int column = 0; column < kWindow; ++column) {
      if (row == kWindow) break;
      bias[column] = parameters.bias_of(row * kWindow + column);
      token_bias[column] = parameters.token_bias_of(row * kWindow + column);
    }
    biases[row] = float4{bias[0], bias[1], bias[2], 0.0f};
    token_biases[row] = float4{token_bias[0], token_bias[1], token_bias[2], 0.0f};
  }

  // The halo index of column `column` in this thread's row of tile t's keys: lanes i, i + 8, i + 16
  // and i + 24 load key i of an MMA.
  __device__ static int cell_of(int thread, int t, int column) {
    const int first = Queries::first_of(thread, t);
    return (Tile::row(first) + thread % 8 / 2) * kWidth + Tile::column(first) + column;
  }

  // The window row of a patch's second row of queries, in row y of its keys: none in row 0, where the
  // biases of row 3 are zero.
  __device__ static int row_before(int y) { return (y + 3) % 4; }

  // Tokens may make weights that overflow a Half. The weights and the output of such a query are
  // divided by a power of two for the MMAs, which replaces the query's factor.
  __device__ static bool any_large(const float (&weights)[2][kWindow]) {
    const float most = fmaxf(largest(weights[0]), largest(weights[1]));
    return __any_sync(0xffffffffu, most >= bits_to_float(kLargeExponent)) != 0;
  }
  __device__ static void fit(int t, float (&weights)[2][kWindow], GemmTerms* query_terms,
                             Queries& queries) {
    const int thread = thread_index();
    __syncwarp();  // the lanes have read the factors
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned exponent = float_to_bits(Queries::over_row(largest(weights[half]))) & 0x7f800000u;
      if (exponent < kLargeExponent) exponent = kLargeExponent;
      const float down = bits_to_float(kLargeExponent + kExponentOfOne - exponent);
#pragma unroll
      for (int j = 0; j < kWindow; ++j) weights[half][j] *= down;
      queries.multiply(t, half, down);
      if (thread % 4 == 0)
        query_terms[Queries::query_of(thread, t, half)].factor =
            bits_to_float(exponent + kExponentOfOne - kLargeExponent);
    }
    __syncwarp();
  }
  __device__ static void unfit(int t, const GemmTerms* query_terms, Queries& queries) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      queries.multiply(t, half, query_terms[Queries::query_of(thread_index(), t, half)].factor);
  }
  __device__ static float largest(const float (&weights)[kWindow]) {
    return fmaxf(fmaxf(fabsf(weights[0]), fabsf(weights[1])), fabsf(weights[2]));
  }
  static constexpr float kLargeWeight = 4096.0f;
  static constexpr unsigned kExponentOfOne = 127u << 23;
  static constexpr unsigned kLargeExponent = 141u << 23;  // of 2^14

  __device__ static float element(const float4& four, int index) {
    return index == 0 ? four.x : index == 1 ? four.y : four.z;
  }

  // The tokens are the columns of two MMAs: column 2 y + x, x < 2, of the first holds the token of
  // window row y and column x, column 2 y of the second that of column 2; the others are zero.
  // Tokens are scaled by a power of two to below 2 and kept as two numbers of T, exact to 2^-16
  // (BFloat16) or 2^-22 (Half) of the largest.
  __device__ void load_tokens(const WindowParameters& parameters, float scale) const {
    const float up = 1.0f / scale;
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
      const int vector = c / Vector16<T>::kElements;
      tokens.vector(column, vector)->values[c % Vector16<T>::kElements] = high;
      tokens.vector(kTokenRows + column, vector)->values[c % Vector16<T>::kElements] = low;
    }
  }

  // Also outside the image, where values are zero; tokens and biases of window row 3 are zero.
  __device__ void add_token_weights(bool has_tokens, const float (&norms)[2],
                                    const Operand& operand, int lane,
                                    float (&weights)[2][kWindow]) const {
    const int y = lane % 4;
    const Vector16<T>* columns = Operand::keys_of(tokens, lane % 8, lane);
    const float4 first_biases = token_biases[y];
    const float4 second_biases = token_biases[row_before(y)];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (has_tokens) {
        operand.multiply(products, columns + n * 8 * kVectorsOfRow);
        operand.multiply(products, columns + (kTokenRows + n * 8) * kVectorsOfRow);
      }
#pragma unroll
      for (int j = 2 * n; j < kWindow && j < 2 * n + 2; ++j) {
        // The second half's window row is the row's previous lane's.
        const float second = __shfl_sync(0xffffffffu, products[2 + j % 2], row_before(y), 4);
        weights[0][j] += norms[0] * products[j % 2] + element(first_biases, j);
        weights[1][j] += norms[1] * second + element(second_biases, j);
      }
    }
  }

  // Multiplies by the patch's keys; each lane selects the three columns from x on.
  __device__ void multiply_keys(const Operand& operand, const Vector16<T>* keys, int x,
                                float (&chosen)[2][kWindow]) const {
    float products[kKeyTiles][4] = {};
    WindowColumns columns;
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2)
      operand.multiply(products[n], keys + n * 2 * kVectorsOfRow);
    columns.choose(0, x, products[0], products[2]);
    columns.choose(4, x, products[2], products[4]);
    __syncwarp();  // all MMAs together would need more registers than are free
#pragma unroll
    for (int n = 1; n < kKeyTiles; n += 2)
      operand.multiply(products[n], keys + n * 2 * kVectorsOfRow);
    columns.choose(2, x, products[1], products[3]);
    columns.finish(x, chosen);
  }

  // out += weights values
  __device__ void multiply_weights(const float (&weights)[2][kWindow], int thread, int t,
                                   float (&out)[Queries::kBlocks][4]) const {
    const WindowWeights<T> operands(weights, thread % 32 / 4);
    // Values of two MMAs: lanes 8 to 15 and 24 to 31 load the second one's keys.
    const Vector16<T>* from =
        values_of(values, cell_of(thread, t, thread % 2 + thread / 8 % 2 * 2), thread);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      const unsigned a[4] = {operands.of(n, 0), operands.of(n, 1), operands.of(n + 1, 0),
                             operands.of(n + 1, 1)};
      if (n + 1 == kKeyTiles) from -= thread / 8 % 2 * 2 * kVectorsOfRow;  // there is no second MMA
      multiply_values<T, kDim / 8>(out, a, from + 2 * n * kVectorsOfRow);
    }
  }
};

}  // namespace transnext::device
