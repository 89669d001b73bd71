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
#include "cuda/kernels/attention/window_products.cuh"

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
  using Rows = SharedRows<T, kDim>;
  using Queries = GemmQueries<Tile, T, kDim>;
  using Operand = RowOperand<T, kDim>;

  Rows keys;          // [kHalo]
  Rows values;        // [kHalo]
  float2* key_terms;  // [kHalo, rounded up to 16]: 1 / |k|, embedding . k
  WindowTokens<T, kDim> tokens;
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
    if (thread_index() < 4) {
      const int row = thread_index();
      biases[row] = WindowParameters(in, head).bias_row(row);
      token_biases[row] = WindowParameters(in, head).token_bias_row(row);
    }
    if (in.tokens.present())
      tokens.load(WindowParameters(in, head), position.state->token_scale, Tile::kQueries);
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
    reach(keys, thread, t).multiply(operand, thread, logits);

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
    reach(values, thread, t).add(logits, thread, queries.out[t]);
    if (large) unfit(t, query_terms, queries);
  }

  // Finds the scale of the tokens (load_tokens), and whether weights with them may overflow a Half,
  // by one warp.
  __device__ static void measure_tokens(const WindowParameters& parameters, TileState* state) {
    constexpr int kCells = kWindow * kWindow;
    const int lane = thread_index() % 32;
    const float scale = WindowTokens<T, kDim>::find_scale(parameters);
    // A weight is at most 1 + |token| + |token_bias|.
    const float bias = lane < kCells ? fabsf(parameters.token_bias_of(lane)) : 0.0f;
    const bool large = !(2.0f * kDim * scale < kLargeWeight) || !(bias < kLargeWeight);
    const bool any = __any_sync(0xffffffffu, large) != 0;
    if (lane != 0) return;
    state->token_scale = scale;
    state->large_tokens = any;
  }

 private:
  // The reach of tile t's queries.
  __device__ static ReachRows<T, kDim, kWidth> reach(const Rows& rows, int thread, int t) {
    const int first = Queries::first_of(thread, t);
    return {rows, Tile::row(first) * kWidth + Tile::column(first)};
  }

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

  // Also outside the image, where values are zero; tokens and biases of window row 3 are zero.
  __device__ void add_token_weights(bool has_tokens, const float (&norms)[2],
                                    const Operand& operand, int lane,
                                    float (&weights)[2][kWindow]) const {
    const int y = lane % 4;
    const float4 first_biases = token_biases[y];
    const float4 second_biases = token_biases[row_before(y)];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (has_tokens) tokens.multiply(operand, lane, n, products);
#pragma unroll
      for (int j = 2 * n; j < kWindow && j < 2 * n + 2; ++j) {
        const float second = WindowTokens<T, kDim>::second_half(products, j % 2, y);
        weights[0][j] += norms[0] * products[j % 2] + element(first_biases, j);
        weights[1][j] += norms[1] * second + element(second_biases, j);
      }
    }
  }
};

}  // namespace transnext::device
