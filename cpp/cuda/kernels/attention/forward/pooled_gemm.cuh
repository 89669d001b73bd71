// The softmax over pooled keys on tensor cores, Half and BFloat16: a warp has 2 x 16 queries, and
// an MMA multiplies 16 queries by 8 keys.
//
// Queries and keys are multiplied in their storage type, so the products are exact; norms,
// embedding and scale are applied in float.
#pragma once

#include "cuda/kernels/attention/forward/gemm_output.cuh"
#include "cuda/kernels/attention/forward/pooled.cuh"
#include "cuda/kernels/attention/row_operand.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

// Whether the sums of the weights are products with ones, of the weights as they are rounded. For
// BFloat16 that would be off by 2^-9.
template <class T>
constexpr bool kSumsByProducts = false;
template <>
constexpr bool kSumsByProducts<Half> = true;

// The state of a warp's queries. A lane holds rows lane / 4 and lane / 4 + 8 of each MMA, its two
// `halves`, and columns lane % 4 * 2 and the next.
template <class Tile, class T, int kDim>
class GemmQueries : public GemmOutput<kDim, kSumsByProducts<T>> {
 public:
  static constexpr int kVectorsOfRow = SharedRows<T, kDim>::kRowBytes / kVector16Bytes;
  using Output = GemmOutput<kDim, kSumsByProducts<T>>;
  using Output::first_of;
  using Output::key_of;
  using Output::kOut;
  using Output::kTiles;
  using Output::out;
  using Output::over_lanes;
  using Output::query_of;
  using Output::store_output;
  using Rows = SharedRows<T, kDim>;

  // Stores the norms of the warp's queries.
  __device__ static void store_norms(const Rows& rows, GemmTerms* query_terms) {
    const int thread = thread_index();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      RowOperand<T, kDim> queries;
      queries.load(rows, first_of(thread, t));
      const float2 squares = queries.squares(thread % 32);
      if (!RowOperand<T, kDim>::holds_squares(thread % 32)) continue;
      query_terms[query_of(thread, t, 0)].norm = inverse_norm(squares.x);
      query_terms[query_of(thread, t, 1)].norm = inverse_norm(squares.y);
    }
  }

  // Accumulates a chunk of pooled keys, 16 at a time: more would need more registers than are free.
  __device__ void add_chunk(const PooledStream<Tile, T, kDim>& stream, const Rows& rows,
                            const GemmTerms* query_terms) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int thread = thread_index();
      const int row = key_of(thread % 8);
      Step step;
      step.left = stream.count();
      if constexpr (kSumsByProducts<T>)
        step.limit = Output::limit_of(out[t][kOut][0], out[t][kOut][2]);
      else
        step.limit = Output::limit_of(sum_[t][0], sum_[t][1]);
      step.keys = RowOperand<T, kDim>::keys_of(stream.keys(), row, thread);
      step.values = values_of(stream.values(), row + thread / 8 % 2 * 8, thread);
      step.terms = stream.terms + thread % 4;
      step.first = query_terms[query_of(thread, t, 0)];
      step.second = query_terms[query_of(thread, t, 1)];
      step.queries.load(rows, first_of(thread, t));
#pragma unroll 1
      for (; step.left > 8; step.left -= 16) {
        add_keys<2>(t, step);
        step.keys += 16 * kVectorsOfRow;
        step.values += 16 * kVectorsOfRow;
        step.terms += 16;
      }
      if (step.left > 0) add_keys<1>(t, step);
    }
  }

  // Ends the softmax over the pooled keys: stores its state in shared memory, for this warp.
  __device__ void settle(GemmTerms* query_terms) const {
    __syncwarp();  // the lanes have read the terms
    const int thread = thread_index();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float all;
        if constexpr (kSumsByProducts<T>)
          all = out[t][kOut][2 * half];
        else
          all = over_lanes(sum_[t][half]);
        if (thread % 4 != 0) continue;
        query_terms[query_of(thread, t, half)].softmax = {offset_[t][half], all};
      }
    }
    __syncwarp();
  }

  // Adds the last keys to the softmax of tile t's queries, kLast of each half: their exponents become
  // weights, and out and the states, which are stored, are updated.
  template <int kLast>
  __device__ void finish(int t, float (&exponents)[2][kLast], SoftmaxTerms (&states)[2],
                         GemmTerms* query_terms) {
    float highest[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      highest[half] = exponents[half][0];
#pragma unroll
      for (int j = 1; j < kLast; ++j) highest[half] = fmaxf(highest[half], exponents[half][j]);
    }
    const float limit = Output::limit_of(states[0].sum, states[1].sum);
    if (__any_sync(0xffffffffu, fmaxf(highest[0], highest[1]) > limit)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float change =
            Output::lower(t, half, states[half].sum, highest[half], states[half].offset);
        states[half].sum *= exp2_fast(fminf(change, 0.0f));
#pragma unroll
        for (float& exponent : exponents[half]) exponent += change;
      }
    }
    __syncwarp();  // the lanes have read the states
    const int thread = thread_index();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (float& exponent : exponents[half]) exponent = exp2_fast(exponent);
      float sum = exponents[half][0];
#pragma unroll
      for (int j = 1; j < kLast; ++j) sum += exponents[half][j];
      states[half].sum += over_lanes(sum);
      const float inverse = reciprocal_fast(states[half].sum);
      Output::multiply(t, half, inverse);
#pragma unroll
      for (float& weight : exponents[half]) weight *= inverse;
      if (thread % 4 == 0) query_terms[query_of(thread, t, half)].softmax = states[half];
    }
  }

  // The same without any more logits.
  __device__ void finish(const GemmTerms* query_terms) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = query_terms[query_of(thread_index(), t, half)].softmax.sum;
        Output::multiply(t, half, reciprocal_fast(sum));
      }
    }
  }

  // Stores the output in its storage type in the queries' rows.
  __device__ void store_output(const Rows& rows) const {
    const int thread = thread_index();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int c = 0; c < kOut; ++c) {
          auto* pairs = reinterpret_cast<unsigned*>(rows.vector(query_of(thread, t, half), c));
          pairs[thread % 4] = pack<T>(out[t][c][2 * half], out[t][c][2 * half + 1]);
        }
      }
    }
  }

 private:
  // What a tile of queries and the keys of a chunk that are left for it need.
  struct Step {
    int left;
    float limit;  // of exponents
    const Vector16<T>* keys;
    const Vector16<T>* values;
    const KeyTerms* terms;
    GemmTerms first, second;
    RowOperand<T, kDim> queries;
  };

  // Accumulates 8 kKeyTiles keys.
  template <int kKeyTiles>
  __device__ void add_keys(int t, Step& step) {
    float exponents[kKeyTiles][4];
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (float& product : exponents[n]) product = 0.0f;
      step.queries.multiply(exponents[n], step.keys + n * 8 * kVectorsOfRow);
    }
    const auto logit = [&](int half, const KeyTerms& key, float product) {
      const GemmTerms& query = half == 0 ? step.first : step.second;
      return (product * query.norm + key.embedding) * (key.norm * query.factor) +
             key.bias_of(query.biases);
    };
    Output::make_exponents(step.left, step.terms, logit, offset_[t], exponents);
    Output::follow(t, step.limit, offset_[t], sum_[t], exponents);
    unsigned weights[2 * kKeyTiles];
#pragma unroll
    for (int i = 0; i < 2 * kKeyTiles; ++i) {
      const float* two = exponents[i / 2] + i % 2 * 2;
      const float first = exp2_fast(two[0]);
      const float second = exp2_fast(two[1]);
      if constexpr (!kSumsByProducts<T>) sum_[t][i % 2] += first + second;
      weights[i] = pack<T>(first, second);
    }
    multiply_values<T, kOut>(out[t], weights, step.values);
    if constexpr (kSumsByProducts<T>) {
      constexpr unsigned kOnes = 0x3c003c00u;  // of Half
      if constexpr (kKeyTiles == 2)
        mma_m16n8k16(out[t][kOut], weights, {kOnes, kOnes}, T{});
      else
        mma_m16n8k8(out[t][kOut], weights, {kOnes}, T{});
    }
  }

  float offset_[kTiles][2] = {};
  float sum_[kTiles][2] = {};  // of this lane's keys, where they are no products
};

}  // namespace transnext::device
