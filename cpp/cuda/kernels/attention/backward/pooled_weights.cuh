// aggregated_attention backward, the tokens' side: pooled keys in shared memory, and their weights for
// 16 queries and 16 pooled keys at a time. Norms, scales and biases enter the logits in float, so the
// tensor cores multiply exact operands.
#pragma once

#include "cuda/kernels/attention/backward/tile.cuh"
#include "cuda/kernels/attention/row_fragments.cuh"

namespace transnext::device {

template <class T, int kDim>
class TokenPooledWeights : public TokenTile<T, kDim> {
 protected:
  using Tile = TokenTile<T, kDim>;
  using Tile::kStride, Tile::kChunks, Tile::thread, Tile::smaller, Tile::pooled, Tile::floats,
      Tile::ints, Tile::rows, Tile::row, Tile::token, Tile::in_, Tile::plan_, Tile::head,
      Tile::batch, Tile::scale, Tile::bias, Tile::queries;
  using Tile::Tile;

  static constexpr bool kTensorCores = OnTensorCores<T>::value;
  // Channels of a warp's queries in registers.
  static constexpr int kKept = kTensorCores && kDim <= 32 ? kDim : 0;

  // Loads the pooled keys from `first` on into shared memory, once the block has left the previous
  // ones.
  __device__ void load_pooled(int first) {
    const AttentionTokenShared& at = plan_.shared;
    const int count = smaller(kAttentionPoolTile, pooled() - first);
    const auto token_of = [=](int i) { return index_t{i < count ? first + i : -1}; };
    __syncthreads();
    stage_rows<kDim>(TokenRows<T>(in_.k_pool, batch(), head()),
                     TokenRows<T>(in_.v_pool, batch(), head()), kAttentionPoolTile, token_of,
                     rows(at.pool_key), rows(at.pool_value));
    finish_copies();
    __syncthreads();
    static_assert(kAttentionTokenThreads == 4 * kAttentionPoolTile, "four threads for each key");
    finish_key(first, thread() / 4, thread() % 4);
    __syncthreads();
  }

  // Derives the terms of a pooled key, by four threads.
  __device__ void finish_key(int first, int i, int part) {
    const AttentionTokenShared& at = plan_.shared;
    const T* key_row = row(at.pool_key, i);
    float square = 0.0f, along = 0.0f;
#pragma unroll
    for (int chunk = part; chunk < kChunks; chunk += 4) {
      float x[8], embedding[8];
      load_vec8(key_row + chunk * 8, x);
      load_vec8(floats(at.embedding) + chunk * 8, embedding);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        square += x[c] * x[c];
        along += x[c] * embedding[c];
      }
    }
    const float inverse = inverse_norm(sum_of_four(square));
    along = sum_of_four(along) * inverse;
    if constexpr (kTensorCores) {  // float has the range for keys that are not normalised
#pragma unroll
      for (int chunk = part; chunk < kChunks; chunk += 4) {
        float x[8];
        load_vec8(key_row + chunk * 8, x);
#pragma unroll
        for (int c = 0; c < 8; ++c) x[c] *= inverse;
        store_vec8(x, rows(at.pool_unit) + i * kStride + chunk * 8);
      }
    }
    if (part == 0) {
      floats(at.pool_inverse)[i] = inverse;
      floats(at.pool_embedding)[i] = along;
    } else if (part == 1) {
      const int columns = static_cast<int>(in_.pool_grid.width);
      const int key = smaller(first + i, pooled() - 1);
      const int pool_row = key / columns;
      const int column = key - pool_row * columns;
      const Rectangle queries = this->queries();
      ints(at.pool_row)[i] =
          this->bias_by_offset()
              ? bias().key_offset(pool_row, column, key, queries.top + queries.height - 1,
                                  queries.left + queries.width - 1)
              : pool_row;
      ints(at.pool_column)[i] = column;
    }
  }

  // One of a lane's two queries of a tile of 16.
  struct Query {
    int index;  // among the block's queries
    float inverse, scaling;
  };
  __device__ Query query_at(int index) const {
    const AttentionTokenShared& at = plan_.shared;
    return {index, floats(at.query_inverse)[index], scale() * floats(at.length_scale)[index]};
  }

  // The rows of a lane's two queries as operands, where they are kept.
  struct Operands {
    LeftRows<T, kKept> query, d_out;
  };
  __device__ Operands operands(int first, int second) const {
    const AttentionTokenShared& at = plan_.shared;
    const int lane = this->lane();
    return {LeftRows<T, kKept>(row(at.query, first), row(at.query, second), lane),
            LeftRows<T, kKept>(row(at.d_out, first), row(at.d_out, second), lane)};
  }

  // a_m, D_m and (qn + embedding) . kpn(m) of 16 queries and the tile's 16 pooled keys from `sub`
  // on.
  __device__ void pooled_weights(const Query (&query)[2], const Operands& operands, int first,
                                 int sub, int lane, float (&probability)[2][4],
                                 float (&d_weight)[2][4], float (&cosine)[2][4]) const {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) probability[t][e] = d_weight[t][e] = 0.0f;
    }
    // Loaded before the tensor cores' GEMMs, which hide the latency.
    float biases[2][4];
    const bool by_offset = this->bias_by_offset();
    if constexpr (kTensorCores) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        if (by_offset) read_biases(query, sub + t * 8 + lane_column(lane), biases[t]);
      }
    }
    if constexpr (kKept > 0) {
      const RightRowsLoader<T, kDim> right(lane);
      multiply_rows(operands.query, right.load(row(at.pool_key, sub)), probability);
      multiply_rows(operands.d_out, right.load(row(at.pool_value, sub)), d_weight);
    } else {
      multiply_rows<kDim>(row(at.query, query[0].index), row(at.query, query[1].index),
                          row(at.pool_key, sub), lane, probability);
      multiply_rows<kDim>(row(at.d_out, query[0].index), row(at.d_out, query[1].index),
                          row(at.pool_value, sub), lane, d_weight);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int key = sub + t * 8 + lane_column(lane);
      if (!by_offset)
        find_biases(query, first, key, biases[t]);
      else if constexpr (!kTensorCores)
        read_biases(query, key, biases[t]);
      finish_weights(query, first, key, biases[t], probability[t], cosine[t]);
    }
  }

  // Overwrites q . k with a_m.
  __device__ void finish_weights(const Query (&query)[2], int first, int key,
                                 const float (&bias)[4], float (&probability)[4],
                                 float (&cosine)[4]) const {
    const AttentionTokenShared& at = plan_.shared;
    const float2 inverse = *reinterpret_cast<const float2*>(floats(at.pool_inverse) + key);
    const float2 embedding = *reinterpret_cast<const float2*>(floats(at.pool_embedding) + key);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const Query& q = query[e / 2];
      cosine[e] = probability[e] * q.inverse * (e % 2 == 0 ? inverse.x : inverse.y) +
                  (e % 2 == 0 ? embedding.x : embedding.y);
      const float value =
          exp2_fast((q.scaling * cosine[e] + bias[e]) * kLog2E + floats(at.offset)[q.index]);
      probability[e] = first + key + e % 2 < pooled() ? value : 0.0f;
    }
  }

  // The bias of a lane's queries and the tile's keys `key` and `key` + 1, by their offsets.
  __device__ void read_biases(const Query (&query)[2], int key, float (&bias)[4]) const {
    const float* values = this->bias().values();
    const int2 offset = *reinterpret_cast<const int2*>(ints(plan_.shared.pool_row) + key);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      bias[e] = values[ints(plan_.shared.bias_offset)[query[e / 2].index] +
                       (e % 2 == 0 ? offset.x : offset.y)];
  }

  // The same for any kind of bias, one value after the other: this path need not be fast.
  __device__ void find_biases(const Query (&query)[2], int first, int key, float (&bias)[4]) const {
    const AttentionTokenShared& at = plan_.shared;
    const Rectangle queries = this->queries();
    const PooledBias general = this->bias();
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      const int own = key + j % 2;
      const int index = j / 2 == 0 ? query[0].index : query[1].index;
      const int y = queries.row(index);
      const int x = queries.column(index);
      const float value = general.at(y, x, token(y, x), ints(at.pool_row)[own],
                                     ints(at.pool_column)[own], smaller(first + own, pooled() - 1));
#pragma unroll
      for (int e = 0; e < 4; ++e) bias[e] = e == j ? value : bias[e];
    }
  }
};

}  // namespace transnext::device
