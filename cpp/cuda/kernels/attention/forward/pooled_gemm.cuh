// The softmax over pooled keys on tensor cores, Half and BFloat16: a warp has 2 x 16 queries, and
// an MMA multiplies 16 queries by 8 keys.
//
// Queries and keys are multiplied in their storage type, so the products are exact; norms,
// embedding and scale are applied in float.
#pragma once

#include "cuda/kernels/attention/forward/gemm_output.cuh"
#include "cuda/kernels/attention/forward/pooled.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

// 16 rows of queries as the left operand of MMAs.
template <class T, int kDim>
struct QueryOperand {
  static constexpr int kRowVectors16 = kDim / 8;  // of 8 channels

  unsigned parts[kRowVectors16][2];

  // Loads rows from `first` on.
  __device__ void load(const SharedRows<T, kDim>& rows, int first) {
    const int lane = thread_index() % 32;
    const Vector16<T>* from = rows.vector(first + lane % 16, lane / 16);
#pragma unroll
    for (int p = 0; p + 1 < kRowVectors16; p += 2) {
      unsigned four[4];
      ldmatrix_x4(four, from + p);
      parts[p][0] = four[0];
      parts[p][1] = four[1];
      parts[p + 1][0] = four[2];
      parts[p + 1][1] = four[3];
    }
    if constexpr (kRowVectors16 % 2 != 0)
      ldmatrix_x2(parts[kRowVectors16 - 1], from + kRowVectors16 - 1);
  }

  // The address of a lane's part of 8 keys, where `row` is its key: lanes i, i + 8, i + 16 and i +
  // 24 load key i.
  template <class Rows>
  __device__ static const Vector16<T>* keys_of(const Rows& keys, int row, int thread) {
    const int group = thread % 32 / 8;
    return keys.vector(row, group < kRowVectors16 ? group : kRowVectors16 - 1);
  }

  // d += queries keys^T
  __device__ void multiply(float (&d)[4], const Vector16<T>* keys) const {
#pragma unroll
    for (int p = 0; p < kRowVectors16; p += 4) {
      unsigned b[4];
      ldmatrix_x4(b, keys + p);
#pragma unroll
      for (int q = 0; q < 4 && p + q < kRowVectors16; q += 2) {
        if (p + q + 1 < kRowVectors16) {
          const unsigned a[4] = {parts[p + q][0], parts[p + q][1], parts[p + q + 1][0],
                                 parts[p + q + 1][1]};
          const unsigned column[2] = {b[q], b[q + 1]};
          mma_m16n8k16(d, a, column, T{});
        } else {
          const unsigned column[1] = {b[q]};
          mma_m16n8k8(d, parts[p + q], column, T{});
        }
      }
    }
  }
};

// The address of a lane's part of 16 values, where `row` is its key: lanes i and i + 16 load key i.
template <class T, int kDim>
__device__ inline const Vector16<T>* values_of(const SharedRows<T, kDim>& values, int row,
                                               int thread) {
  return values.vector(row, thread % 32 / 16);
}

// out += weights values
template <class T, int kRowVectors16>
__device__ inline void multiply_values(float (&out)[kRowVectors16][4], const unsigned (&weights)[4],
                                       const Vector16<T>* values) {
#pragma unroll
  for (int c = 0; c + 1 < kRowVectors16; c += 2) {
    unsigned b[4];
    ldmatrix_x4_trans(b, values + c);
    mma_m16n8k16(out[c], weights, {b[0], b[1]}, T{});
    mma_m16n8k16(out[c + 1], weights, {b[2], b[3]}, T{});
  }
  if constexpr (kRowVectors16 % 2 != 0) {
    unsigned b[2];
    ldmatrix_x2_trans(b, values + kRowVectors16 - 1);
    mma_m16n8k16(out[kRowVectors16 - 1], weights, b, T{});
  }
}

// The state of a warp's queries. A lane holds rows lane / 4 and lane / 4 + 8 of each MMA, its two
// `halves`, and columns lane % 4 * 2 and the next.
template <class Tile, class T, int kDim>
class GemmQueries : public GemmOutput<kDim> {
 public:
  static constexpr int kVectorsOfRow = SharedRows<T, kDim>::kRowBytes / kVector16Bytes;
  using Output = GemmOutput<kDim>;
  using Output::first_of;
  using Output::key_of;
  using Output::kOut;
  using Output::kTiles;
  using Output::out;
  using Output::over_lanes;
  using Output::query_of;
  using Output::store_output;
  using Rows = SharedRows<T, kDim>;

  __device__ GemmQueries() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum_[t][half] = kLeastMaximum;
        sum_[t][half] = 0.0f;
      }
    }
  }

  // Accumulates a chunk of pooled keys, 16 at a time: more would need more registers than are free.
  __device__ void add_chunk(const PooledStream<Tile, T, kDim>& stream, const Rows& rows,
                            const GemmTerms* query_terms) {
    const int count = stream.count();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int thread = thread_index();
      const int row = key_of(thread % 8);
      const Vector16<T>* keys = QueryOperand<T, kDim>::keys_of(stream.keys(), row, thread);
      const Vector16<T>* values = values_of(stream.values(), row + thread / 8 % 2 * 8, thread);
      const GemmTerms first = query_terms[query_of(thread, t, 0)];
      const GemmTerms second = query_terms[query_of(thread, t, 1)];
      const KeyTerms* key_terms = stream.terms + thread % 4;
      QueryOperand<T, kDim> queries;
      queries.load(rows, first_of(thread, t));
#pragma unroll 1
      for (int left = count; left > 0; left -= 16) {
        float logits[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) logits[n][e] = 0.0f;
          queries.multiply(logits[n], keys + n * 8 * kVectorsOfRow);
        }
        const auto logit = [&](int half, const KeyTerms& key, float product) {
          const GemmTerms& query = half == 0 ? first : second;
          return (product * query.norm + key.embedding) * (key.norm * query.factor) +
                 query.biases[key.bias];
        };
        const float2 highest = Output::make_logits(left, key_terms, logit, logits);
        Output::follow(t, highest, maximum_[t], sum_[t]);
        Output::weigh(maximum_[t], sum_[t], logits);
        const unsigned weights[4] = {
            pack<T>(logits[0][0], logits[0][1]), pack<T>(logits[0][2], logits[0][3]),
            pack<T>(logits[1][0], logits[1][1]), pack<T>(logits[1][2], logits[1][3])};
        multiply_values(out[t], weights, values);
        keys += 16 * kVectorsOfRow;
        values += 16 * kVectorsOfRow;
        key_terms += 16;
      }
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
        const float all = over_lanes(sum_[t][half]);
        if (thread % 4 != 0) continue;
        query_terms[query_of(thread, t, half)].softmax = {maximum_[t][half], all};
      }
    }
    __syncwarp();
  }

  // Adds the last logits to the softmax of tile t's queries, kLast of each half: the logits become
  // weights, and out and the state are updated.
  template <int kLast>
  __device__ void finish(int t, float (&logits)[2][kLast], GemmTerms* query_terms) {
    const int thread = thread_index();
    float maximum[2];
    float sum[2];  // of this lane's keys
    float highest[2] = {kNoLogit, kNoLogit};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const SoftmaxTerms state = query_terms[query_of(thread, t, half)].softmax;
      maximum[half] = state.maximum;
      sum[half] = thread % 4 == 0 ? state.sum : 0.0f;
#pragma unroll
      for (const float logit : logits[half]) highest[half] = fmaxf(highest[half], logit);
    }
    Output::follow(t, {highest[0], highest[1]}, maximum, sum);
    __syncwarp();  // the lanes have read the state
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (float& logit : logits[half]) {
        logit = exp2_fast(logit * kLog2E - maximum[half]);
        sum[half] += logit;
      }
      const float all = over_lanes(sum[half]);
      const float inverse = reciprocal_fast(all);
      Output::multiply(t, half, inverse);
#pragma unroll
      for (float& weight : logits[half]) weight *= inverse;
      if (thread % 4 == 0) query_terms[query_of(thread, t, half)].softmax = {maximum[half], all};
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
  float maximum_[kTiles][2];  // as powers of two
  float sum_[kTiles][2];      // of this lane's keys
};

}  // namespace transnext::device
