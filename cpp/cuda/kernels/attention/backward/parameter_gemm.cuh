// aggregated_attention backward, the tokens' side: a block's sums for the parameters' gradients beside
// a window of 3 x 3 on tensor cores (window_gemm.cuh), whose unit queries and numbers of T it uses. A
// warp sums 16 owned queries; their part in the tokens' gradients is a product of cells x queries and
// queries x channels.
#pragma once

#include "cuda/kernels/attention/backward/tile.cuh"
#include "cuda/kernels/attention/backward/window_patch.cuh"
#include "cuda/kernels/attention/row_fragments.cuh"

namespace transnext::device {

template <class T, int kDim>
class ParameterGemm {
 public:
  using Tile = TokenTile<T, kDim>;

  __device__ explicit ParameterGemm(const Tile& tile) : tile_(tile) {}

  // Stores the sums: scale, query embedding [d], local bias [L], token bias [L], tokens [L, d]. Each
  // warp's overwrite the pooled keys in shared memory.
  __device__ void store(float* sums) const {
    const int size = tile_.plan_.parameters;
    const int count = tile_.owned().cells();
    static_assert(kMostSums * Tile::kWarps * 4 <= 3 * kAttentionPoolTile * Tile::kStride * 2,
                  "room for every warp's sums in the place of the pooled keys");
    float* of_warps = tile_.floats(tile_.plan_.shared.pool_key);
    if (Tile::warp() * kQueries < count) add(of_warps + Tile::warp() * size, count);
    __syncthreads();
    const int warps = (count + kQueries - 1) / kQueries;
#pragma unroll 1
    for (int e = Tile::thread(); e < size; e += kAttentionTokenThreads) {
      float sum = 0.0f;
#pragma unroll 4
      for (int warp = 0; warp < warps; ++warp) sum += of_warps[warp * size + e];
      sums[e] = sum;
    }
  }

 private:
  static constexpr int kChunks = Tile::kChunks;
  static constexpr int kCells = WindowColumns::kWindow * WindowColumns::kWindow;
  static constexpr int kQueries = 16;  // of a warp
  static constexpr int kMostSums = 1 + kDim + 2 * kCells + kCells * kDim;
  static_assert(kAttentionMostTokens <= kQueries * Tile::kWarps, "a warp for 16 owned tokens");

  // Four numbers of a lane for each row of cells that it holds, of its queries.
  struct OfCells {
    float top[4], bottom[4];

    __device__ float sum(bool bottom_row) const {
      const float (&four)[4] = bottom_row ? bottom : top;
      return sum_of_four(four[0] + four[1] + (four[2] + four[3]));
    }
  };

  // `numbers` are [queries][kCells]; a lane holds cells lane / 4 and, of the first four lanes, 8.
  __device__ OfCells load(const float* numbers, const int (&query)[4]) const {
    const int cell = lane_row(Tile::lane());
    OfCells result;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float* of_query = numbers + query[e] * kCells;
      result.top[e] = query[e] >= 0 ? of_query[cell] : 0.0f;
      result.bottom[e] = query[e] >= 0 && cell == 0 ? of_query[8] : 0.0f;
    }
    return result;
  }

  // Adds this warp's queries, from 16 times its number on.
  __device__ void add(float* sums, int count) const {
    const AttentionTokenShared& at = tile_.plan_.shared;
    const int lane = Tile::lane();
    const int first = Tile::warp() * kQueries;
    const int channels = tile_.channels();
    const int cell = lane_row(lane);
    int query[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int own = first + lane_column(lane) + e % 2 + e / 2 * 8;
      query[e] = own < count ? tile_.owned_query(own) : -1;
    }
    const OfCells d_logit = load(tile_.floats(at.probability), query);
    const OfCells d_weight = load(tile_.floats(at.d_weight), query);
    float* to = sums + 1 + channels;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float of_local = d_logit.sum(row > 0);
      const float of_token = d_weight.sum(row > 0);
      if (lane % 4 != 0 || cell + 8 * row >= kCells) continue;
      to[cell + 8 * row] = of_local;
      to[kCells + cell + 8 * row] = of_token;
    }
    add_rows(sums, first, count, channels);
    if (tile_.p_.d_tokens.present()) add_tokens(to + 2 * kCells, first, count, channels, d_weight);
  }

  // Scale and query embedding.
  __device__ void add_rows(float* sums, int first, int count, int channels) const {
    const AttentionTokenShared& at = tile_.plan_.shared;
    const int lane = Tile::lane();
    const int end = Tile::smaller(count, first + kQueries);
    const float of_scale =
        warp_sum(first + lane < end ? tile_.floats(at.d_scale)[first + lane] : 0.0f);
    if (lane == 0) sums[0] = of_scale;
    if (lane >= channels) return;
    float sum = 0.0f;
#pragma unroll 4
    for (int own = first; own < end; ++own) sum += tile_.floats(at.gradient)[own * kDim + lane];
    sums[1 + lane] = sum;
  }

  __device__ void add_tokens(float* sums, int first, int count, int channels,
                             const OfCells& d_weight) const {
    const AttentionTokenShared& at = tile_.plan_.shared;
    const int lane = Tile::lane();
    const float unit = tile_.state().largest_d_out;
    const float factor = unit > 0.0f ? 1.0f / unit : 0.0f;
    const float (&top)[4] = d_weight.top;
    const float (&bottom)[4] = d_weight.bottom;
    const unsigned operand[4] = {
        pack<T>(top[0] * factor, top[1] * factor), pack<T>(bottom[0] * factor, bottom[1] * factor),
        pack<T>(top[2] * factor, top[3] * factor), pack<T>(bottom[2] * factor, bottom[3] * factor)};
    const int own = Tile::smaller(first + lane % 16, count - 1);
    float product[kChunks][4] = {};
    multiply_operand(operand, tile_.row(at.query, tile_.owned_query(own)), lane, product);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int cell = lane_row(lane) + 8 * row;
      if (cell >= kCells) continue;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int c = 8 * i + lane_column(lane) + e;
          if (c < channels) sums[cell * channels + c] = product[i][2 * row + e] * unit;
        }
      }
    }
  }

  const Tile& tile_;
};

}  // namespace transnext::device
