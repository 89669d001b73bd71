// The pooled keys of the fused attention: chunk after chunk through shared memory, an online softmax
// over their logits, and the weighted sum of their values.
//
// The softmax's state of a query is (maximum, sum, output): of the exponentials of the logits up to
// now, less their maximum, the sum, and the sum times the values. The maximum is taken off before
// anything else, so that the largest weight is 1 whatever the logits' size, here and in the backward
// pass, which makes the weights again from log_sum_exp.
#pragma once

#include "device/attention_bias.cuh"
#include "device/attention_rows.cuh"
#include "device/math.cuh"
#include "device/tensor_core.cuh"

namespace transnext::device {

// -infinity, spelled in the one way that nvcc, NVRTC and a host compiler all have without a header.
constexpr float kNoLogit = __builtin_bit_cast(float, 0xff800000u);

// What a new maximum does to sums made with an old one; a query without logits has none to change.
__device__ inline float rescale(float old_maximum, float new_maximum) {
  return old_maximum == kNoLogit ? 0.0f : exp_fast(old_maximum - new_maximum);
}

// Two chunks of pooled keys and values in shared memory, one in use while the next arrives.
template <class Tile, class T, int kDim>
class PooledStream {
 public:
  using Rows = SharedRows<T, kDim>;

  __device__ PooledStream(const AggregatedAttentionInputs& in, const TileState* state,
                          unsigned char* key_memory, unsigned char* value_memory, float* norms,
                          float* embeddings, const float* embedding)
      : in_(in),
        state_(state),
        key_memory_(key_memory),
        value_memory_(value_memory),
        norms_(norms),
        embeddings_(embeddings),
        embedding_(embedding),
        count_(static_cast<int>(in.k_pool.shape[1])) {
    ask(0);
  }

  __device__ int count() const { return count_; }
  __device__ Rows keys(int chunk) const { return {key_memory_ + chunk % 2 * kBytes}; }
  __device__ Rows values(int chunk) const { return {value_memory_ + chunk % 2 * kBytes}; }

  // Asks for the next chunk, waits for this one, and computes its keys' inverse norms and, for tensor
  // cores, their products with the query embedding. The block
  // must have left the chunk before; everybody may read afterwards.
  __device__ void advance(int chunk) {
    if ((chunk + 1) * kChunkKeys < count_) {
      ask(chunk + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
#pragma unroll 1
    for (int key = threadIdx.x; key < kChunkKeys; key += Tile::kQueries) {
      const float norm = keys(chunk).inverse_norm(key);
      norms_[key] = norm;
      if (sizeof(T) == 2) embeddings_[key] = keys(chunk).dot(key, embedding_) * norm;
    }
    __syncthreads();
  }

 private:
  static constexpr int kBytes = kChunkKeys * Rows::kRowBytes;

  __device__ void ask(int chunk) {
    // The tensors' pointers are made anew for each chunk: kept, they would take many registers.
    load_chunk<Tile>(HeadRows<T>(in_.k_pool, state_->batch, state_->head), chunk * kChunkKeys,
                     count_, keys(chunk));
    load_chunk<Tile>(HeadRows<T>(in_.v_pool, state_->batch, state_->head), chunk * kChunkKeys,
                     count_, values(chunk));
    commit_copies();
  }

  const AggregatedAttentionInputs& in_;
  const TileState* state_;
  unsigned char* key_memory_;
  unsigned char* value_memory_;
  float* norms_;
  float* embeddings_;
  const float* embedding_;  // [kDim]
  int count_;
};

// float: one thread for each query, its state in registers.
template <class Tile, int kDim>
__device__ inline void take_pooled(PooledStream<Tile, float, kDim>& stream,
                                   TileBias<Tile, float>& bias, const TilePlace<Tile>& place,
                                   const float* norms, int2* places, const float (&query)[kDim],
                                   float factor, float& maximum, float& sum, float (&out)[kDim]) {
  constexpr int kGroup = 4;  // keys for each change of the maximum
  const int mine = threadIdx.x;
  const bool inside = place.inside(mine);
  const int row = inside ? mine / Tile::kColumns : 0;
  const int column = inside ? mine % Tile::kColumns : 0;
#pragma unroll 1
  for (int chunk = 0; chunk * kChunkKeys < stream.count(); ++chunk) {
    const int first = chunk * kChunkKeys;
    __syncthreads();
    bias.load_chunk(chunk, stream.count(), places);
    stream.advance(chunk);
    const auto keys = stream.keys(chunk);
    const auto values = stream.values(chunk);
    const int count = stream.count() - first < kChunkKeys ? stream.count() - first : kChunkKeys;
#pragma unroll 1
    for (int group = 0; group < count; group += kGroup) {
      float logits[kGroup];
      float highest = maximum;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int key = group + i;
        float logit = kNoLogit;
        if (key < count) {
          const float term = bias(places, key, row, column);
          logit = keys.dot(key, query) * (factor * norms[key]) + term;
        }
        logits[i] = logit;
        highest = fmaxf(highest, logit);
      }
      if (highest == kNoLogit) continue;
      const float change = rescale(maximum, highest);
      maximum = highest;
      sum *= change;
#pragma unroll
      for (int c = 0; c < kDim; ++c) out[c] *= change;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (group + i >= count) break;
        const float weight = exp_fast(logits[i] - highest);
        sum += weight;
        values.add(group + i, weight, out);
      }
    }
  }
}

// Half and BFloat16 on tensor cores: a warp takes 2 x 16 queries, a product 16 queries and 8 keys.
//
// Queries and keys are multiplied as they are, so that products are exact; norms, embedding and scale
// follow in float. The 8 keys of a product are taken in the order 0 4 1 5 2 6 3 7: then the lanes of a
// warp find their entries of the bias in different banks where the image is 8 times the pooled grid.
template <class Tile, class T, int kDim>
class TensorCoreQueries {
 public:
  static constexpr int kTiles = 2;          // of 16 queries, for each warp
  static constexpr int kOut = kDim / 8;     // products for the channels of the output
  static constexpr int kSteps = kDim / 16;  // products of depth 16
  static constexpr bool kHalfStep = kDim % 16 != 0;

  float out[kTiles][kOut][4];
  float maximum[kTiles][2];
  float sum[kTiles][2];

  __device__ TensorCoreQueries() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum[t][half] = kNoLogit;
        sum[t][half] = 0.0f;
      }
#pragma unroll
      for (int c = 0; c < kOut; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[t][c][e] = 0.0f;
      }
    }
  }

  // The tile's query that this lane's first (half = 0) or second row of product tile t is.
  __device__ static int query_of(int t, int half) {
    return (static_cast<int>(threadIdx.x) / 32 * kTiles + t) * 16 + half * 8 + lane() / 4;
  }

  __device__ void take(PooledStream<Tile, T, kDim>& stream, TileBias<Tile, T>& bias,
                       const TilePlace<Tile>& place, const SharedRows<T, kDim>& rows,
                       const float* factors, const float* query_norms, const float* key_norms,
                       const float* embeddings, int2* places) {
#pragma unroll 1
    for (int chunk = 0; chunk * kChunkKeys < stream.count(); ++chunk) {
      const int first = chunk * kChunkKeys;
      __syncthreads();
      bias.load_chunk(chunk, stream.count(), places);
      stream.advance(chunk);
      const int count = stream.count() - first < kChunkKeys ? stream.count() - first : kChunkKeys;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float logits[kKeyTiles][4];
        multiply_keys(stream.keys(chunk), rows, t, logits);
        finish_logits(bias, place, factors, query_norms, key_norms, embeddings, places, t, count,
                      logits);
        take_values(stream.values(chunk), t, logits);
      }
    }
  }

  // The state to shared memory, where each query's own thread finds it: [queries][kDim + 4] and
  // [queries].
  __device__ void give(float* exchange, float2* sums) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = sum[t][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const int query = query_of(t, half);
        if (lane() % 4 == 0) sums[query] = float2{maximum[t][half], total};
        float* row = exchange + query * (kDim + 4) + lane() % 4 * 2;
#pragma unroll
        for (int c = 0; c < kOut; ++c) {
          *reinterpret_cast<float2*>(row + 8 * c) =
              float2{out[t][c][2 * half], out[t][c][2 * half + 1]};
        }
      }
    }
  }

 private:
  static constexpr int kKeyTiles = kChunkKeys / 8;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  // The key that column or depth `index` of a product stands for.
  __device__ static int key_of(int index) { return index / 2 + index % 2 * 4; }

  // logits = rows keys^T
  __device__ void multiply_keys(const SharedRows<T, kDim>& keys, const SharedRows<T, kDim>& rows,
                                int t, float (&logits)[kKeyTiles][4]) const {
    const int query = (static_cast<int>(threadIdx.x) / 32 * kTiles + t) * 16 + lane() % 16;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) logits[n][e] = 0.0f;
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      unsigned a[4];
      ldmatrix_x4(a, rows.piece(query, 2 * s + lane() / 16));
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        unsigned b[2];
        ldmatrix_x2(b, keys.piece(8 * n + key_of(lane() % 8), 2 * s + lane() / 8 % 2));
        mma_m16n8k16(logits[n], a, b, T{});
      }
    }
    if constexpr (kHalfStep) {
      unsigned a[2];
      ldmatrix_x2(a, rows.piece(query, 2 * kSteps));
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        unsigned b[2];
        ldmatrix_x2(b, keys.piece(8 * (n + lane() / 8 % 2) + key_of(lane() % 8), 2 * kSteps));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const unsigned column[1] = {b[i]};
          mma_m16n8k8(logits[n + i], a, column, T{});
        }
      }
    }
  }

  // Norms, scale and bias onto the products; then the softmax's weights in their place, and its
  // state brought to the new maximum.
  __device__ void finish_logits(const TileBias<Tile, T>& bias, const TilePlace<Tile>& place,
                                const float* factors, const float* query_norms,
                                const float* key_norms, const float* embeddings, const int2* places,
                                int t, int count, float (&logits)[kKeyTiles][4]) {
    int row[2];
    int column[2];
    float factor[2];
    float query_norm[2];
    float highest[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = query_of(t, half);
      const bool inside = place.inside(query);
      row[half] = inside ? query / Tile::kColumns : 0;
      column[half] = inside ? query % Tile::kColumns : 0;
      factor[half] = factors[query];
      query_norm[half] = query_norms[query];
      highest[half] = maximum[t][half];
    }
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = 8 * n + key_of(lane() % 4 * 2 + e);
        if (key >= count) {
          logits[n][e] = kNoLogit;
          logits[n][2 + e] = kNoLogit;
          continue;
        }
        const float norm = key_norms[key];
        const float embedding = embeddings[key];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float term = bias(places, key, row[half], column[half]);
          float& logit = logits[n][2 * half + e];
          logit = factor[half] * (logit * query_norm[half] * norm + embedding) + term;
          highest[half] = fmaxf(highest[half], logit);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(0xffffffffu, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(0xffffffffu, highest[half], 2));
      const float change = rescale(maximum[t][half], highest[half]);
      maximum[t][half] = highest[half];
      // A query without logits has only weights of zero, whatever they are taken from.
      const float from = highest[half] == kNoLogit ? 0.0f : highest[half];
      float added = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& logit = logits[n][2 * half + e];
          logit = exp_fast(logit - from);
          added += logit;
        }
      }
      sum[t][half] = sum[t][half] * change + added;  // of this lane's keys
#pragma unroll
      for (int c = 0; c < kOut; ++c) {
        out[t][c][2 * half] *= change;
        out[t][c][2 * half + 1] *= change;
      }
    }
  }

  // out += weights values
  __device__ void take_values(const SharedRows<T, kDim>& values, int t,
                              const float (&weights)[kKeyTiles][4]) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      const unsigned a[4] = {pack<T>(weights[n][0], weights[n][1]),
                             pack<T>(weights[n][2], weights[n][3]),
                             pack<T>(weights[n + 1][0], weights[n + 1][1]),
                             pack<T>(weights[n + 1][2], weights[n + 1][3])};
      const int key = 8 * n + lane() / 8 % 2 * 8 + key_of(lane() % 8);
#pragma unroll
      for (int c = 0; c < kOut; ++c) {
        unsigned b[2];
        ldmatrix_x2_trans(b, values.piece(key, c));
        mma_m16n8k16(out[t][c], a, b, T{});
      }
    }
  }
};

}  // namespace transnext::device
