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
template <int kDim>
class GemmOutput {
 public:
  static constexpr int kTiles = 2;       // of 16 queries, for each warp
  static constexpr int kOut = kDim / 8;  // MMAs for the channels of the output

  float out[kTiles][kOut][4];

  __device__ GemmOutput() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int c = 0; c < kOut; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[t][c][e] = 0.0f;
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

  // The maximum of `maximum` and `highest` over the four lanes that hold a row.
  __device__ static float raise(float maximum, float highest) {
    highest = fmaxf(maximum, highest);
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    return fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
  }

  __device__ static float over_lanes(float sum) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
  }

  __device__ void multiply(int t, int half, float factor) {
#pragma unroll
    for (int c = 0; c < kOut; ++c) {
      out[t][c][2 * half] *= factor;
      out[t][c][2 * half + 1] *= factor;
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
  // Logits may exceed the maximum that is subtracted by this exponent of two before the maximum is
  // updated: weights of that size do no harm, and few MMAs then raise the maximum.
  static constexpr float kMostExcess = 8.0f;

  // Turns q . k of 8 kKeyTiles keys into logits by `logit(half, key terms, q . k)`. `key_terms`
  // begin at this lane's first key; `left` keys remain. Returns each half's maximum.
  template <class Logit, int kKeyTiles>
  __device__ static float2 make_logits(int left, const KeyTerms* key_terms, const Logit& logit,
                                       float (&logits)[kKeyTiles][4]) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const KeyTerms terms = key_terms[8 * n + 4 * e];
        logits[n][e] = logit(0, terms, logits[n][e]);
        logits[n][2 + e] = logit(1, terms, logits[n][2 + e]);
      }
    }
    if (left < 8 * kKeyTiles) {
      const int own = left - thread_index() % 4;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (8 * n + 4 * (e % 2) >= own) logits[n][e] = kNoLogit;
        }
      }
    }
    float2 highest = {fmaxf(logits[0][0], logits[0][1]), fmaxf(logits[0][2], logits[0][3])};
#pragma unroll
    for (int n = 1; n < kKeyTiles; ++n) {
      highest.x = fmaxf(highest.x, fmaxf(logits[n][0], logits[n][1]));
      highest.y = fmaxf(highest.y, fmaxf(logits[n][2], logits[n][3]));
    }
    return highest;
  }

  // Where `highest`, of this lane's logits, exceeds the maxima, raises them and rescales the sums
  // so far.
  __device__ void follow(int t, float2 highest, float (&maximum)[2], float (&sum)[2]) {
    if (!__any_sync(0xffffffffu, highest.x * kLog2E - maximum[0] > kMostExcess ||
                                     highest.y * kLog2E - maximum[1] > kMostExcess))
      return;
    raise_maximum(t, 0, highest.x, maximum[0], sum[0]);
    raise_maximum(t, 1, highest.y, maximum[1], sum[1]);
  }

  // Turns logits into softmax weights and adds them, over this lane's keys, to each half's sum.
  template <int kKeyTiles>
  __device__ static void weigh(const float (&maximum)[2], float (&sum)[2],
                               float (&logits)[kKeyTiles][4]) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        logits[n][e] = exp2_fast(logits[n][e] * kLog2E - maximum[e / 2]);
        sum[e / 2] += logits[n][e];
      }
    }
  }

 private:
  __device__ void raise_maximum(int t, int half, float highest, float& maximum, float& sum) {
    const float most = raise(maximum, highest * kLog2E);
    const float change = exp2_fast(maximum - most);
    maximum = most;
    sum *= change;
    multiply(t, half, change);
  }
};

}  // namespace transnext::device
