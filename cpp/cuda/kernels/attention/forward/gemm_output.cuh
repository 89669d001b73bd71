// The state of the softmax over pooled keys on tensor cores. A warp has 2 x 16 queries; an MMA
// multiplies 16 queries by 8 keys.
//
// An MMA has its 8 keys in the order 0 4 1 5 2 6 3 7, so that lanes that read together read
// neighbouring entries of a dense bias.
//
// Maxima are kept as exponents of two, so a weight costs one multiply-add and one exponential.
#pragma once

#include "cuda/kernels/attention/forward/pooled.cuh"

namespace transnext::device {

// The outputs. A lane holds rows lane / 4 and lane / 4 + 8 of each MMA, its two `halves`, and
// columns lane % 4 * 2 and the next.
template <int kDim, bool kHasSums = false>
class GemmOutput {
 public:
  static constexpr int kTiles = 2;       // of 16 queries, for each warp
  static constexpr int kOut = kDim / 8;  // MMAs for the channels of the output

  static constexpr int kBlocks = kOut + (kHasSums ? 1 : 0);  // the last may be the weights' sums

  float out[kTiles][kBlocks][4];

  __device__ GemmOutput() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (auto& four : out[t]) {
#pragma unroll
        for (float& value : four) value = 0.0f;
      }
    }
  }

  // The first query of tile t of a thread's warp, and the thread's own query of each half.
  __device__ static int first_of(int thread, int t) { return (thread / 32 * kTiles + t) * 16; }
  __device__ static int query_of(int thread, int t, int half) {
    return first_of(thread, t) + half * 8 + thread % 32 / 4;
  }
  // The key in column or depth `index` of an MMA.
  __device__ static int key_of(int index) { return index / 2 + index % 2 * 4; }

  // The maximum over the four lanes that hold a row.
  __device__ static float over_row(float highest) {
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    return fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
  }

  __device__ static float over_lanes(float sum) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
  }

  __device__ void multiply(int t, int half, float factor) {
#pragma unroll
    for (auto& four : out[t]) {
      four[2 * half] *= factor;
      four[2 * half + 1] *= factor;
    }
  }

  // Stores the output in shared memory, [queries][kDim + 4], for each query's own thread.
  __device__ void store_output(float* exchange) const {
    const int thread = thread_index();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* row = exchange + query_of(thread, t, half) * (kDim + 4) + thread % 4 * 2;
#pragma unroll
        for (int c = 0; c < kOut; ++c) {
          *reinterpret_cast<float2*>(row + 8 * c) =
              float2{out[t][c][2 * half], out[t][c][2 * half + 1]};
        }
      }
    }
  }

 protected:
  // A weight is 2^(logit log2(e) + offset). An offset makes the largest weight so far 2^-kHeadroom, so
  // few keys later make one of more than kMostExponent, which lowers the offset; weights of that size
  // do no harm before.
  static constexpr float kHeadroom = 3.0f;
  static constexpr float kMostExponent = 1.0f;

  // Turns q . k of 8 kKeyTiles keys into exponents of weights by `logit(half, key terms, q . k)`.
  // `key_terms` begin at this lane's first key; `left` keys remain.
  template <class Logit, int kKeyTiles>
  __device__ static void make_exponents(int left, const KeyTerms* key_terms, const Logit& logit,
                                        const float (&offset)[2], float (&products)[kKeyTiles][4]) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const KeyTerms terms = key_terms[8 * n + 4 * e];
        products[n][e] = logit(0, terms, products[n][e]) * kLog2E + offset[0];
        products[n][2 + e] = logit(1, terms, products[n][2 + e]) * kLog2E + offset[1];
      }
    }
    if (left < 8 * kKeyTiles) {
      const int own = left - thread_index() % 4;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (8 * n + 4 * (e % 2) >= own) products[n][e] = kNoLogit;
        }
      }
    }
  }

  // What exponents may be. Rows without weights, of which these are (some of) their sums, have no
  // offset yet.
  __device__ static float limit_of(float sum, float other) {
    return fminf(sum, other) > 0.0f ? kMostExponent : kNoLogit;
  }

  // Where exponents exceed `limit`, lowers the offsets so that the largest weight of a row is
  // 2^-kHeadroom, and rescales the output and this lane's sums.
  template <int kKeyTiles>
  __device__ void follow(int t, float& limit, float (&offset)[2], float (&sum)[2],
                         float (&exponents)[kKeyTiles][4]) {
    float highest[2] = {kNoLogit, kNoLogit};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) highest[e / 2] = fmaxf(highest[e / 2], exponents[n][e]);
    }
    if (!__any_sync(0xffffffffu, fmaxf(highest[0], highest[1]) > limit)) return;
    limit = kMostExponent;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = kHasSums ? out[t][kOut][2 * half] : over_lanes(sum[half]);
      const float change = lower(t, half, all, highest[half], offset[half]);
      if (all == 0.0f && change == 0.0f) limit = kNoLogit;
      sum[half] *= exp2_fast(fminf(change, 0.0f));
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        exponents[n][2 * half] += change;
        exponents[n][2 * half + 1] += change;
      }
    }
  }

  // Lowers a half's offset so that the largest weight, of which this lane has 2^highest, is
  // 2^-kHeadroom; it rises only before the first weights, whose `sum` is zero. Rescales the output so
  // far, and returns the change: 0 for a row that has no logits yet.
  __device__ float lower(int t, int half, float sum, float highest, float& offset) {
    highest = over_row(highest);
    float change = -kHeadroom - highest;
    if (sum > 0.0f) change = fminf(change, 0.0f);
    if (highest == kNoLogit) change = 0.0f;
    offset += change;
    multiply(t, half, exp2_fast(fminf(change, 0.0f)));
    return change;
  }
};

}  // namespace transnext::device
