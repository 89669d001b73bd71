// aggregated_attention backward, 16-bit types with a window of 3 x 3: the gradients of a patch's
// queries, and what they leave for the gradients of keys, values and parameters.
#pragma once

#include "cuda/kernels/attention/backward/pooled_keys.cuh"
#include "cuda/kernels/attention/backward/strip_pooled.cuh"

namespace transnext::device {

// A lane's part of the parameters' sums, over all its patches.
template <int kDim>
struct LaneSums {
  float embedding[kDim / 8][2] = {};
  float scale = 0.0f;
};

template <class Parts>
struct StripQueries {
  using T = typename Parts::Element;
  static constexpr int kDim = Parts::kChannels;
  using Operand = RowOperand<T, kDim>;
  static constexpr int kChunks = Parts::kChunks;
  static constexpr int kWindow = Parts::kWindow;
  static constexpr int kCells = Parts::kCells;

  const Parts& strip;

  // All threads of the block call this together.
  __device__ void compute(LaneSums<kDim>& sums) const {
    const StripPatch patch;
    const bool inside = patch.inside(strip.corner());
    LaneQueries queries;
    float probability[2][kWindow] = {}, d_weight[2][kWindow] = {};
    if (inside) find_weights(patch, queries, probability, d_weight);
    float sum[kChunks][4];
    PooledKeys<Parts>{strip}.accumulate(patch, inside, inside, queries, sum);
    if (inside) finish(patch, queries, probability, d_weight, sum, sums);
  }

 private:
  using Cells = float[2][kWindow];

  // A lane's keys are in this row of the reach: in window row y of the patch's first queries, and y - 1
  // of the second.
  static __device__ int y() { return thread_index() % 4; }
  static __device__ bool has_cells(int half) { return half == 0 ? y() < kWindow : y() > 0; }

  __device__ ReachRows<T, kDim, kStripKeyColumns> reach(const SharedRows<T, kDim>& rows,
                                                        const StripPatch& patch) const {
    return {rows, patch.top * kStripKeyColumns + patch.column};
  }
  // The index of the lane's first key.
  __device__ int key(const StripPatch& patch) const {
    return (patch.top + y()) * kStripKeyColumns + patch.column + thread_index() % 32 / 4;
  }
  // a_j and D_j, their part of delta, and w_j, which it stores.
  __device__ void find_weights(const StripPatch& patch, LaneQueries& queries, Cells& probability,
                               Cells& d_weight) const {
    const int thread = thread_index();
    const TileCorner corner = strip.corner();
    const LaneTerms terms(strip, patch);
    Operand query;
    query.load(strip.queries().vector(patch.row(thread % 16), thread % 32 / 16));
    reach(strip.keys(), patch).multiply(query, thread, probability);
    {
      Operand d_out;
      d_out.load(strip.d_outs().vector(patch.row(thread % 16), thread % 32 / 16));
      reach(strip.values(), patch).multiply(d_out, thread, d_weight);
    }
    const bool row_inside = corner.row_inside(corner.top + patch.top + y() - 1);
    const int column = corner.left + patch.column + thread % 32 / 4 - 1;
    const StripKey* keys = strip.key_terms() + key(patch);
    const float4 biases[2] = {strip.biases()[y()], strip.biases()[row_before(y())]};
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const StripKey of_key = keys[j];
      const bool there = row_inside && corner.column_inside(column + j);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float logit = (probability[h][j] * terms.norm[h] + of_key.embedding) *
                                (of_key.norm * terms.factor[h]) +
                            element(biases[h], j);
        const float value = exp2_fast(logit * kLog2E + terms.offset[h]);
        probability[h][j] = there && has_cells(h) ? value : 0.0f;
        queries.delta[h] += probability[h][j] * d_weight[h][j];
        queries.total[h] += probability[h][j];
      }
    }
    store_weights(patch, query, terms, probability);
  }

  // w_j, divided by what makes it a number of T.
  __device__ void store_weights(const StripPatch& patch, const Operand& query,
                                const LaneTerms& terms, const Cells& probability) const {
    const AggregatedAttentionInputs& in = strip.p.in;
    const float4 biases[2] = {strip.token_biases()[y()], strip.token_biases()[row_before(y())]};
    const float scale = strip.state().token_scale;
    const float down = 1.0f / strip.state().weight_unit;
    float weights[2][kWindow];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float products[4] = {};
      if (in.tokens.present()) strip.tokens().multiply(query, thread_index() % 32, n, products);
#pragma unroll
      for (int j = 2 * n; j < kWindow && j < 2 * n + 2; ++j) {
        const float of_half[2] = {products[j % 2],
                                  WindowTokens<T, kDim>::second_half(products, j % 2, y())};
#pragma unroll
        for (int h = 0; h < 2; ++h)
          weights[h][j] =
              probability[h][j] + of_half[h] * (terms.norm[h] * scale) + element(biases[h], j);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (!has_cells(h)) continue;
      T* of_query = strip.weights() + patch.index(h) * kCells + (y() - h) * kWindow;
#pragma unroll
      for (int j = 0; j < kWindow; ++j) from_float(weights[h][j] * down, of_query[j]);
    }
  }

  __device__ void finish(const StripPatch& patch, const LaneQueries& queries,
                         const Cells& probability, const Cells& d_weight, float (&sum)[kChunks][4],
                         LaneSums<kDim>& sums) const {
    const int thread = thread_index();
    const LaneTerms terms(strip, patch);
    {
      const StripKey* keys = strip.key_terms() + key(patch);
      float weights[2][kWindow];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float unit = inverse_or_zero(terms.d_out_norm[h]);
        float gradient[kWindow];
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          gradient[j] = probability[h][j] * (d_weight[h][j] - queries.delta[h]);
          weights[h][j] = gradient[j] * (unit * keys[j].norm);
        }
        if (!has_cells(h)) continue;
        float* of_query = strip.d_logits() + patch.index(h) * kCells + (y() - h) * kWindow;
#pragma unroll
        for (int j = 0; j < kWindow; ++j) of_query[j] = gradient[j];
      }
      reach(strip.keys(), patch).add(weights, thread, sum);
    }
    float positional[kChunks][4] = {};
    add_tokens(patch, terms, d_weight, positional);
    store(patch, terms, queries.delta, sum, positional, sums);
  }

  // sum_j D_j tokens_j / |d_out|; D_j of the owned queries, for d_tokens, in the place of `slots`.
  __device__ void add_tokens(const StripPatch& patch, const LaneTerms& terms, const Cells& d_weight,
                             float (&positional)[kChunks][4]) const {
    // Window row y of the second half is the next lane's.
    float second[kWindow];
#pragma unroll
    for (int j = 0; j < kWindow; ++j)
      second[j] = __shfl_sync(0xffffffffu, d_weight[1][j], (y() + 1) % 4, 4);
    const float (&first)[kWindow] = d_weight[0];
    if (strip.p.in.tokens.present()) {
      const float unit[2] = {inverse_or_zero(terms.d_out_norm[0]),
                             inverse_or_zero(terms.d_out_norm[1])};
      strip.tokens().add({pack<T>(first[0] * unit[0], first[1] * unit[0]),
                          pack<T>(second[0] * unit[1], second[1] * unit[1]),
                          pack<T>(first[2] * unit[0], 0.0f), pack<T>(second[2] * unit[1], 0.0f)},
                         thread_index(), positional);
    }
    if (strip.plan.parameters == 0) return;
    const float down = inverse_or_zero(strip.unit());
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = patch.query(h);
      const float unit =
          Parts::owns_column(query % kStripColumns) && strip.owns_row(strip.top() + patch.top + h)
              ? down
              : 0.0f;
      unsigned* slots = strip.slots() + query * kStripSlotWords + y();
      slots[0] = h == 0 ? pack<T>(first[0] * unit, first[1] * unit)
                        : pack<T>(second[0] * unit, second[1] * unit);
      slots[4] = pack<T>((h == 0 ? first[2] : second[2]) * unit, 0.0f);
    }
  }

  // Stores d_q, unit vectors in the place of the queries, and the terms for the pooled side.
  __device__ void store(const StripPatch& patch, const LaneTerms& terms, const float (&delta)[2],
                        const float (&sum)[kChunks][4], const float (&positional)[kChunks][4],
                        LaneSums<kDim>& sums) const {
    const int thread = thread_index();
    Operand operand;
    operand.load(strip.queries().vector(patch.row(thread % 16), thread % 32 / 16));
    __syncwarp();  // before units overwrite the queries
    const TileCorner corner = strip.corner();
    const HeadRows<T> d_q = strip.tensors().d_q;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int index = patch.index(h);
      const int row = corner.top + patch.top + h;
      const int column = index % kStripColumns;
      const bool owned = Parts::owns_column(column) && strip.owns_row(row) &&
                         corner.column_inside(corner.left + column);
      const float length = strip.lengths()[index];
      const float of_token = terms.d_out_norm[h] * strip.state().token_scale;
      float2 unit[kChunks];
      float gradient[kChunks][2], along = 0.0f;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const float2 embedding =
            *reinterpret_cast<const float2*>(strip.embedding() + 8 * i + thread % 4 * 2);
        const float2 two = floats_of<T>(operand.parts[i][h]);
        unit[i] = {two.x * terms.norm[h], two.y * terms.norm[h]};
        reinterpret_cast<unsigned*>(strip.queries().vector(index, i))[thread % 4] =
            pack<T>(unit[i].x, unit[i].y);
        const float2 both = {sum[i][2 * h] * terms.d_out_norm[h],
                             sum[i][2 * h + 1] * terms.d_out_norm[h]};
        along += both.x * (unit[i].x + embedding.x) + both.y * (unit[i].y + embedding.y);
        gradient[i][0] = both.x * terms.factor[h];
        gradient[i][1] = both.y * terms.factor[h];
        if (owned) {
          sums.embedding[i][0] += gradient[i][0];
          sums.embedding[i][1] += gradient[i][1];
        }
        gradient[i][0] += positional[i][2 * h] * of_token;
        gradient[i][1] += positional[i][2 * h + 1] * of_token;
      }
      if (owned) sums.scale += along * length;
      const int token = corner.token(row, corner.left + column);
      if (strip.plan.query_terms_stay && owned && thread % 4 == 0)
        strip.tensors().query_terms[token] =
            float4{terms.factor[h] * terms.norm[h], terms.factor[h], terms.offset[h], delta[h]};
      if (!strip.p.d_q.present()) continue;
      through_normalisation(unit, terms.norm[h], 1.0f, gradient);
      if (owned) d_q.store_pairs(token, thread % 4 * 2, gradient);
    }
  }
};

}  // namespace transnext::device
