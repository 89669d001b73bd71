// aggregated_attention backward, the tokens' side: what the pooled keys add to delta and to the
// queries' gradients. Only d_l_m / |d_out|, of the values' magnitude, is rounded to 16 bits.
#pragma once

#include "cuda/kernels/attention/backward/pooled_weights.cuh"
#include "cuda/kernels/attention/weighted_rows.cuh"
#include "cuda/kernels/common/multiprocessor.cuh"
#include "cuda/kernels/common/thread_index.cuh"

namespace transnext::device {

template <class T, int kDim>
class TokenPooled : public TokenPooledWeights<T, kDim> {
 protected:
  using Tile = TokenTile<T, kDim>;
  using Weights = TokenPooledWeights<T, kDim>;
  using Tile::kWarps, Tile::kSumsAlong, Tile::thread, Tile::smaller, Tile::pooled, Tile::floats,
      Tile::ints, Tile::rows, Tile::row, Tile::plan_, Tile::owned, Tile::queries;
  using typename Weights::Operands, typename Weights::Query;
  using Weights::kKept, Weights::load_pooled, Weights::query_at, Weights::pooled_weights,
      Weights::finish_weights, Weights::read_biases;
  using Weights::Weights;

  // Tiles of 8 pooled keys whose weights fit into a warp's registers.
  static constexpr int kTiles = 7;

  // delta of every query and, for the owned queries, sum_m d_l_m kpn(m) and its dot product with qn
  // + embedding.
  __device__ void pooled_keys() {
    if (pooled() <= 8 * kTiles && this->bias_by_offset()) {
      load_pooled(0);
      pooled_keys_at_once();
      return;
    }
#pragma unroll 1
    for (int first = 0; first < pooled(); first += kAttentionPoolTile) {
      load_pooled(first);
      add_deltas(first);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread(); i < queries().cells(); i += kAttentionTokenThreads)
      floats(plan_.shared.delta)[i] =
          normalised_delta(floats(plan_.shared.delta)[i], floats(plan_.shared.total)[i]);
    __syncthreads();
    add_gradients();
  }

  // Divides by the sum of the probabilities, which is 1 up to the rounding of large logits: D -
  // delta of a key that has all the weight is then 0 up to the same rounding.
  static __device__ float normalised_delta(float delta, float total) {
    return total > 0.0f ? delta / total : delta;
  }

  // One of the lane's two queries of the 16 from `tile` on, in the order with the owned ones first.
  __device__ int ordered(int tile, int half, int lane) const {
    return ints(
        plan_.shared.order)[smaller(tile + 8 * half + lane_row(lane), queries().cells() - 1)];
  }

  // Scales d_l_m into the storage type's range, as weights of rows (`inverse`), and scales the sums
  // back (`norm`).
  struct Factors {
    float inverse[2], norm[2];
  };
  __device__ Factors factors(const int (&index)[2]) const {
    Factors result;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float norm = floats(plan_.shared.d_out_norm)[index[h]];
      result.inverse[h] = norm > 0.0f ? 1.0f / norm : 0.0f;
      result.norm[h] = OnTensorCores<T>::value ? norm : 1.0f;
    }
    return result;
  }

  // Overwrites a_m of 8 pooled keys with d_l_m times its factor.
  __device__ void logit_gradients(const float (&delta)[2], const Factors& factors, int first,
                                  int lane, float (&probability)[4],
                                  const float (&d_weight)[4]) const {
    const float2 inverse = *reinterpret_cast<const float2*>(floats(plan_.shared.pool_inverse) +
                                                            first + lane_column(lane));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      probability[e] *= d_weight[e] - delta[e / 2];
      if constexpr (OnTensorCores<T>::value)
        probability[e] *= factors.inverse[e / 2];
      else
        probability[e] *= e % 2 == 0 ? inverse.x : inverse.y;
    }
  }

  // The rows that these gradients weight.
  __device__ const T* gradient_rows(int sub) const {
    const AttentionTokenShared& at = plan_.shared;
    return row(OnTensorCores<T>::value ? at.pool_unit : at.pool_key, sub);
  }

  // Handles all pooled keys at once: their weights stay in registers from delta to the gradients.
  __device__ void pooled_keys_at_once() {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int tile = thread_index() / 32 * 16; tile < queries().cells(); tile += kWarps * 16) {
      const int lane =
          thread_index() % 32;  // read again: values derived from it would occupy registers
      const int index[2] = {ordered(tile, 0, lane), ordered(tile, 1, lane)};
      // The query whose row this lane loads for tensor cores.
      const int own =
          kKept > 0 ? ints(at.order)[smaller(tile + lane % 16, queries().cells() - 1)] : 0;
      float probability[kTiles][4] = {}, d_weight[kTiles][4] = {};
      // With float, the biases of 16 queries fit into registers only before D_m is computed.
      if constexpr (kSumsAlong) multiply_all(at.d_out, index, own, at.pool_value, lane, d_weight);
      // Compilers would interleave the two GEMMs there and exceed the registers.
      if constexpr (multiprocessor_threads() == 1536) __syncwarp();
      multiply_all(at.query, index, own, at.pool_key, lane, probability);
      float delta[2] = {}, total[2] = {}, along[2] = {}, cosines[2] = {};
      find_weights(index, lane, d_weight, probability, delta, total, along, cosines);
      if constexpr (!kSumsAlong) {
        multiply_all(at.d_out, index, own, at.pool_value, lane, d_weight);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e) delta[e / 2] += probability[t][e] * d_weight[t][e];
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h)
        delta[h] = normalised_delta(floats(at.delta)[index[h]] + sum_of_four(delta[h]),
                                    floats(at.total)[index[h]] + sum_of_four(total[h]));
      __syncwarp();
      if (lane % 4 == 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (tile + 8 * h + lane_row(lane) < queries().cells())
            floats(at.delta)[index[h]] = delta[h];
        }
      }
      if (tile >= owned().cells()) continue;
      const Factors factor = factors(index);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        logit_gradients(delta, factor, t * 8, lane, probability[t], d_weight[t]);
      WeightedRows<T, kDim> sums;
#pragma unroll
      for (int t = 0; t + 1 < kTiles; t += 2)
        sums.add(probability[t], probability[t + 1], gradient_rows(t * 8), lane);
      if constexpr (kTiles % 2 == 1)
        sums.add(probability[kTiles - 1], gradient_rows(8 * kTiles - 8), lane);
#pragma unroll
      for (int h = 0; h < 2; ++h) along[h] = sum_of_four(along[h] - delta[h] * cosines[h]);
      store(tile, lane, along, factor, sums);
    }
  }

  // Multiplies the rows of 16 queries by those of all pooled keys. `own` is the query whose row the
  // lane loads, for tensor cores.
  __device__ void multiply_all(int left, const int (&index)[2], int own, int right, int lane,
                               float (&product)[kTiles][4]) const {
    if constexpr (kKept > 0) {
      const LeftRows<T, kKept> operand(row(left, own), thread_index() % 32);
      const RightRowsLoader<T, kKept> loader(lane);
#pragma unroll
      for (int t = 0; t < kTiles; t += 2) {
        const RightRows<T, kKept> two = loader.load(row(right, t * 8));
#pragma unroll
        for (int i = 0; i < 2 && t + i < kTiles; ++i)
          multiply_rows(operand, two.of[i], product[t + i]);
      }
    } else {
      multiply_rows<kDim>(row(left, index[0]), row(left, index[1]), rows(right), lane, product);
    }
  }

  // Overwrites q . k of the pooled keys with a_m and accumulates its sums; those with D_m if it is
  // known.
  __device__ void find_weights(const int (&index)[2], int lane, const float (&d_weight)[kTiles][4],
                               float (&probability)[kTiles][4], float (&delta)[2],
                               float (&total)[2], float (&along)[2], float (&cosines)[2]) const {
    const Query query[2] = {query_at(index[0]), query_at(index[1])};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int key = t * 8 + lane_column(lane);
      float bias[4], cosine[4];
      read_biases(query, key, bias);
      finish_weights(query, 0, key, bias, probability[t], cosine);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        total[e / 2] += probability[t][e];
        if constexpr (kSumsAlong) {
          const float weighted = probability[t][e] * d_weight[t][e];
          delta[e / 2] += weighted;
          along[e / 2] += weighted * cosine[e];
          cosines[e / 2] += probability[t][e] * cosine[e];
        }
      }
    }
  }

  // Stores the results of the owned queries among the 16 from `tile` on.
  __device__ void store(int tile, int lane, const float (&along)[2], const Factors& factors,
                        const WeightedRows<T, kDim>& sums) {
    const int count = owned().cells() - tile;
    sums.store(lane, count, factors.norm, floats(plan_.shared.gradient) + tile * kDim);
#pragma unroll
    for (int h = 0; kSumsAlong && h < 2; ++h) {
      const int n = 8 * h + lane_row(lane);
      if (lane % 4 == 0 && n < count) floats(plan_.shared.d_scale)[tile + n] = along[h];
    }
  }

  // With more pooled keys than fit into shared memory, a first pass accumulates delta,
  __device__ void add_deltas(int first) {
    const AttentionTokenShared& at = plan_.shared;
    const int lane = this->lane();
    const int keys = smaller(kAttentionPoolTile, pooled() - first);
#pragma unroll 1
    for (int tile = this->warp() * 16; tile < queries().cells(); tile += kWarps * 16) {
      const Query query[2] = {query_at(ordered(tile, 0, lane)), query_at(ordered(tile, 1, lane))};
      const Operands operands = this->operands(query[0].index, query[1].index);
      float sum[2] = {}, total[2] = {};
#pragma unroll 1
      for (int sub = 0; sub < keys; sub += 16) {
        float probability[2][4], d_weight[2][4], cosine[2][4];
        pooled_weights(query, operands, first, sub, lane, probability, d_weight, cosine);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            sum[e / 2] += probability[t][e] * d_weight[t][e];
            total[e / 2] += probability[t][e];
          }
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h] = sum_of_four(sum[h]);
        total[h] = sum_of_four(total[h]);
        if (lane % 4 == 0 && tile + 8 * h + lane_row(lane) < queries().cells()) {
          floats(at.delta)[query[h].index] += sum[h];
          floats(at.total)[query[h].index] += total[h];
        }
      }
    }
  }

  // and a second one the gradients, from recomputed weights: one warp per 16 owned queries.
  __device__ void add_gradients() {
    static_assert(kAttentionMostTokens <= kWarps * 16, "a warp for 16 owned tokens");
    const int lane = this->lane();
    const int tile = this->warp() * 16;
    const int begin = tile < owned().cells() ? tile : 0;
    const Query query[2] = {query_at(ordered(begin, 0, lane)), query_at(ordered(begin, 1, lane))};
    const Operands operands = this->operands(query[0].index, query[1].index);
    float along[2] = {};
    WeightedRows<T, kDim> sums;
#pragma unroll 1
    for (int first = 0; first < pooled(); first += kAttentionPoolTile) {
      load_pooled(first);
      if (tile >= owned().cells()) continue;
      const int keys = smaller(kAttentionPoolTile, pooled() - first);
      // Loaded here, not before the loop, where they would occupy registers.
      const Factors factor = factors({query[0].index, query[1].index});
      const float delta[2] = {floats(plan_.shared.delta)[query[0].index],
                              floats(plan_.shared.delta)[query[1].index]};
#pragma unroll 1
      for (int sub = 0; sub < keys; sub += 16) {
        float probability[2][4], d_weight[2][4], cosine[2][4];
        pooled_weights(query, operands, first, sub, lane, probability, d_weight, cosine);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if constexpr (kSumsAlong)
              along[e / 2] += probability[t][e] * (d_weight[t][e] - delta[e / 2]) * cosine[t][e];
        }
#pragma unroll
        for (int t = 0; t < 2; ++t)
          logit_gradients(delta, factor, sub + t * 8, lane, probability[t], d_weight[t]);
        sums.add(probability[0], probability[1], gradient_rows(sub), lane);
      }
    }
    if (tile >= owned().cells()) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) along[h] = sum_of_four(along[h]);
    store(tile, thread_index() % 32, along, factors({query[0].index, query[1].index}), sums);
  }
};

}  // namespace transnext::device
