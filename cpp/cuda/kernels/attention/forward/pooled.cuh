// The pooled keys of the fused attention: they are streamed through shared memory in chunks, with
// an online softmax over their logits and the weighted sum of their values.
//
// The softmax state of a query is (maximum, sum, output): the maximum of the logits so far, the sum
// of exp(logit - maximum), and the sum of these weights times the values. The maximum is subtracted
// first, so the largest weight is 1 however large the logits are, here and in the backward pass,
// which recomputes the weights from log_sum_exp.
#pragma once

#include "cuda/kernels/attention/forward/bias.cuh"
#include "cuda/kernels/attention/row_operand.cuh"
#include "cuda/kernels/attention/rows.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

// The factor that a new maximum applies to sums over an old one; a query without logits has none to
// change.
__device__ inline float rescale(float old_maximum, float new_maximum) {
  return old_maximum == kNoLogit ? 0.0f : exp_fast(old_maximum - new_maximum);
}

// The base that logits are taken relative to. A query without logits has only zero weights,
// whatever the base.
__device__ inline float softmax_base(float maximum) {
  return maximum == kNoLogit ? 0.0f : maximum;
}

// Rounds a row to TF32 in place, and returns the sum of its squares before that.
template <class Rows>
__device__ inline float round_row(const Rows& rows, int row) {
  const typename Rows::Row vectors(rows, row);
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < Rows::kRowVectors16; ++i) {
    Vector16<float> vector = vectors[i];
#pragma unroll
    for (float& value : vector.values) {
      square += value * value;
      value = bits_to_float(round_to_tensor_float(value));
    }
    vectors[i] = vector;
  }
  return square;
}

// Chunks of pooled keys, values and biases in shared memory; the keys and values of the next chunk
// are copied while one is in use:
//
//   while (pooled.advance()) { ... pooled.keys(), values(), terms, count() ... }
//
// All threads of the block call this together.
template <class Tile, class T, int kDim>
class PooledStream {
 public:
  using Element = Stored<T>;
  using ValueRows = SharedRows<Element, kDim, false>;
  // Only tensor cores read several keys at a time: eight.
  using Rows = SharedRows<Element, kDim,
                          OnTensorCores<T>::value && exchanges_vectors(kDim, sizeof(Element))>;

  // Of 16-bit types; in the others the embedding is in the queries.
  using Embedding = EmbeddingRows<Element, kDim>;

  KeyTerms* terms;  // [chunk]

  __device__ PooledStream(const AggregatedAttentionInputs& in, const TileState* state,
                          const TileBias<Tile, T>& bias, unsigned char* rows, KeyTerms* key_terms,
                          const Embedding* embedding)
      : terms(key_terms), in_(in), state_(state), bias_(bias), rows_(rows), embedding_(embedding) {
    first_ = -chunk_keys();
    start_copies(0, 0);
  }

  // Advances to the next chunk; false if there is none.
  __device__ bool advance() {
    first_ += chunk_keys();
    if (first_ >= all()) return false;
    if (first_ > 0) __syncthreads();  // the block has left the previous chunk
    bias_.load_chunk(first_, count(), padded(count()), terms);
    if (first_ + chunk_keys() < all()) {
      start_copies(first_ + chunk_keys(), 1 - buffer());
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    if constexpr (kRounds) {
      // The first threads round a row each: the chunk's keys, then its values.
#pragma unroll 1
      for (int row = thread_index(); row < 2 * padded(count()); row += Tile::kQueries) {
        if (row < padded(count())) {
          const float norm = inverse_norm(round_row(keys(), row));
          terms[row].norm = norm;
          terms[row].embedding = 0.0f;  // it is in the queries
        } else {
          round_row(values(), row - padded(count()));
        }
      }
    } else if constexpr (OnTensorCores<T>::value) {
      for_row_terms<Tile::kQueries, T, kDim>(keys(), padded(count()), *embedding_,
                                             [&](int key, float norm, float dot) {
                                               terms[key].norm = norm;
                                               terms[key].embedding = dot;
                                             });
    } else {
#pragma unroll 1
      for (int key = thread_index(); key < padded(count()); key += Tile::kQueries) {
        terms[key].norm = keys().inverse_norm(key);
        terms[key].embedding = 0.0f;  // it is in the queries
      }
    }
    __syncthreads();
    return true;
  }

  __device__ int count() const {
    const int left = all() - first_;
    return left < chunk_keys() ? left : chunk_keys();
  }
  __device__ Rows keys() const { return {rows_ + buffer() * kBytes}; }
  __device__ ValueRows values() const { return {rows_ + (2 + buffer()) * kBytes}; }
  // Keys and values as rows of one allocation.
  __device__ Rows rows() const { return {rows_}; }
  __device__ int first_row() const { return buffer() * Tile::kChunkKeys; }
  __device__ static constexpr int value_row(int key_row) { return key_row + 2 * Tile::kChunkKeys; }

 private:
  static constexpr int kBytes = Tile::kChunkKeys * Rows::kRowBytes;
  static constexpr bool kRounds = RoundsToTensorFloat<T>::value;

  // These are read or computed where they are needed, so they occupy no registers.
  __device__ int buffer() const { return (first_ & chunk_keys()) != 0 ? 1 : 0; }
  __device__ int chunk_keys() const { return bias_.chunk_keys(); }
  __device__ int all() const { return static_cast<int>(in_.k_pool.shape[1]); }
  // Tensor cores multiply 16 rows together; rows beyond the chunk's end are zero.
  __device__ static int padded(int keys) { return (keys + 15) & ~15; }

  __device__ void start_copies(int first, int buffer) {
    const int end = first + chunk_keys() < all() ? first + chunk_keys() : all();
    const int rows = padded(end - first);
    // The tensors' pointers are rebuilt for each chunk: keeping them would need many registers.
    load_chunk(Tile::kQueries, HeadRows<Element>(in_.k_pool, *state_),
               HeadRows<Element>(in_.v_pool, *state_), first, rows, end,
               Rows{rows_ + buffer * kBytes}, ValueRows{rows_ + (2 + buffer) * kBytes});
    commit_copies();
  }

  const AggregatedAttentionInputs& in_;
  const TileState* state_;
  const TileBias<Tile, T>& bias_;
  unsigned char* rows_;  // keys and values, two chunks each
  const Embedding* embedding_;
  int first_;
};

// float: one thread per query, with the softmax's output in registers and its maximum and sum in
// the query's terms, which start as those of no logit.
template <class Tile, int kDim>
__device__ inline void accumulate_pooled(PooledStream<Tile, float, kDim>& stream,
                                         const TileBias<Tile, float>& bias,
                                         const TilePosition<Tile>& position,
                                         const float (&query)[kDim], RowTerms& row,
                                         float (&out)[kDim]) {
  constexpr int kGroup = 3;  // keys per update of the maximum
  while (stream.advance()) {
    if (!position.warp_inside(thread_index())) continue;
    const auto rows = stream.rows();
    const float* biases = bias.values() + row.bias;
    const int end = stream.first_row() + stream.count();
#pragma unroll 1
    for (int group = stream.first_row(); group < end; group += kGroup) {
      float logits[kGroup];
      float highest = row.maximum;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int key = group + i;
        float logit = kNoLogit;
        if (key < end) {
          const KeyTerms& terms = stream.terms[key % Tile::kChunkKeys];
          logit = rows.dot(key, query) * (row.factor * terms.norm) + terms.bias_of(biases);
        }
        logits[i] = logit;
        highest = fmaxf(highest, logit);
      }
      if (highest == kNoLogit) continue;
      const float change = rescale(row.maximum, highest);
      row.maximum = highest;
      float added = 0.0f;
#pragma unroll
      for (int c = 0; c < kDim; ++c) out[c] *= change;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (group + i >= end) break;
        const float weight = exp_fast(logits[i] - highest);
        added += weight;
        rows.add(stream.value_row(group + i), weight, out);
      }
      row.sum = row.sum * change + added;
    }
  }
}

}  // namespace transnext::device
