// aggregated_attention backward, 16-bit types with a window of 3 x 3: a block's sums for the
// parameters' gradients, over all its steps.
#pragma once

#include "cuda/kernels/attention/backward/strip_queries.cuh"

namespace transnext::device {

// The gradients of tokens and token biases are products of D_j with the unit queries and with ones: each
// of the first warps has eight channels, the next one the ones. Those of the local biases are added by
// the last threads, each a cell of a row. A thread keeps its part in registers.
template <class Parts>
class StripSums {
 public:
  using T = typename Parts::Element;
  static constexpr int kDim = Parts::kChannels;
  static constexpr int kChunks = Parts::kChunks;
  static constexpr int kWindow = Parts::kWindow;
  static constexpr int kCells = Parts::kCells;

  __device__ explicit StripSums(const Parts& strip) : strip_(strip) {}

  LaneSums<kDim> of_queries;

  // Adds a step's owned queries.
  __device__ void add() {
    if (strip_.plan.parameters == 0) return;
    const int thread = thread_index();
    const int warp = thread / 32;
    if (warp <= kChunks) {
      float products[4] = {};
#pragma unroll 1
      for (int row = strip_.first_owned_row(); row < strip_.end_owned_row(); ++row) {
        const int first = row * kStripColumns;
        unsigned cells[4];
        ldmatrix_x4_trans(cells, strip_.slots() +
                                     (first + thread % 32 / 16 * 8 + thread % 8) * kStripSlotWords +
                                     thread / 8 % 2 * 4);
        unsigned right[2] = {pack<T>(1.0f, 1.0f), pack<T>(1.0f, 1.0f)};
        if (warp < kChunks)
          ldmatrix_x2_trans(right,
                            strip_.queries().vector(first + 2 * kStripColumns + thread % 16, warp));
        mma_m16n8k16(products, cells, right, T{});
      }
      const float unit = strip_.unit();
#pragma unroll
      for (int e = 0; e < 4; ++e) tokens_[e] += products[e] * unit;
    }
    const int cell = thread - (strip_.threads() - kCells * strip_.rows());
    if (cell >= 0 && strip_.owns_row(strip_.top() + cell / kCells)) {
      const float* of_row =
          strip_.d_logits() + (cell / kCells + 2) * kStripColumns * kCells + cell % kCells;
#pragma unroll
      for (int column = 1; column < kStripColumns - 1; ++column)
        if (strip_.state().left + column < strip_.width()) local_ += of_row[column * kCells];
    }
  }

  // Stores the sums: scale, query embedding [d], local bias [L], token bias [L], tokens [L, d]. The
  // block must have left its rows of queries, which they overwrite.
  __device__ void store() {
    if (strip_.plan.parameters == 0) return;
    const int thread = thread_index();
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int channels = static_cast<int>(strip_.p.in.q.shape[3]);
    float* sums = strip_.workspace + strip_.plan.parameter_sums +
                  index_t{blockIdx.x} * strip_.plan.parameters;
    float* of_warps = strip_.template part<float>(strip_.at().queries);  // [rows][kDim + 1]
    float* of_cells = of_warps + strip_.rows() * (kDim + 1);             // [rows][kCells]
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& sum = of_queries.embedding[i][e];
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2)
          sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        if (lane < 4) of_warps[warp * (kDim + 1) + 1 + 8 * i + 2 * lane + e] = sum;
      }
    }
    const float of_scale = warp_sum(of_queries.scale);
    if (lane == 0) of_warps[warp * (kDim + 1)] = of_scale;
    const int own = thread - (strip_.threads() - kCells * strip_.rows());
    if (own >= 0) of_cells[own] = local_;
    if (warp <= kChunks) store_tokens(warp, lane, channels, sums + 1 + channels + kCells);
    __syncthreads();
    if (thread <= channels)
      sums[thread] = sum_of(of_warps + thread, kDim + 1);
    else if (thread >= 64 && thread < 64 + kCells)
      sums[1 + channels + thread - 64] = sum_of(of_cells + thread - 64, kCells);
  }

 private:
  __device__ float sum_of(const float* parts, int stride) const {
    float sum = 0.0f;
#pragma unroll 1
    for (int row = 0; row < strip_.rows(); ++row) sum += parts[row * stride];
    return sum;
  }

  // Row r of the products is cell (r / 2, r % 2) of the window, row 8 + r cell (r / 2, 2).
  __device__ void store_tokens(int warp, int lane, int channels, float* sums) const {
    const int y = lane / 8;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int x = e / 2 * 2 + lane / 4 % 2;
      if (y >= kWindow || x >= kWindow) continue;
      const int cell = y * kWindow + x;
      const int c = 8 * warp + lane % 4 * 2 + e % 2;
      if (warp == kChunks) {
        if (lane % 4 == 0 && e % 2 == 0) sums[cell] = tokens_[e];
      } else if (c < channels && strip_.p.d_tokens.present()) {
        sums[kCells + cell * channels + c] = tokens_[e];
      }
    }
  }

  const Parts& strip_;
  float tokens_[4] = {};
  float local_ = 0.0f;
};

}  // namespace transnext::device
