// aggregated_attention backward, the tokens' side: d_q, d_k, d_v, and a block's partial sums of the
// parameter gradients. With the forward's formulas (transnext/aggregated_attention.h), D_j = d_out
// . v(n + offset_j), D_m = d_out . vp(m), t_j = qn . tokens_j + token_bias_j, and the probabilities
// a = exp(logit - log_sum_exp) recomputed:
//
//   delta = sum_j a_j D_j + sum_m a_m D_m,   d_l = a (D - delta), the logits' gradients
//   d_qh  = sum_j d_l_j kn(n + offset_j) + sum_m d_l_m kpn(m)
//   d_qn  = d_qh scale s + sum_j D_j tokens_j, and d_q through the normalisation
//   d_kn(n') = sum_j d_l_j(n' - offset_j) qh(n' - offset_j), and d_k through the normalisation
//   d_v(n')  = sum_j w_j(n' - offset_j) d_out(n' - offset_j)
//
// delta is summed over the keys, not computed as d_out . out: `out` is rounded to its storage type,
// and where one key has all the weight, D - delta would be nothing but that error.
//
// A block owns a rectangle of tokens of one (image, head), as queries and as keys. Queries within a
// window's reach of the rectangle see its keys, so the block computes their a_j, D_j and delta too,
// and no gradient has two writers. Rows lie in shared memory in their storage type. Norms, scales
// and biases enter the logits in float, so tensor cores multiply exact operands. What is rounded to 16
// bits is d_l_m / |d_out|, of the values' magnitude. 16-bit types with a window of 3 x 3 have strips.cuh.
//
// Per token and head: bytes (6 d + read halos) sizeof(T) + 8; flops about 2 d (7 L + 3 P), and 2 d 2 P
// (queries of the halo / owned - 1).
#pragma once

#include "cuda/kernels/attention/backward/local_window.cuh"

namespace transnext {

namespace device {

template <class T, int kDim>
class BackwardTokens : TokenWindow<T, kDim> {
  using Tile = TokenTile<T, kDim>;

 public:
  __device__ BackwardTokens(const AggregatedAttentionBackwardLaunch& launch, unsigned block)
      : TokenWindow<T, kDim>(launch, block) {}

  // Inlined, or the compiler would put the members and a copy of the parameters into local memory.
  __device__ __forceinline__ void run() {
    this->load();
    __syncthreads();
    this->find_norms();
    __syncthreads();
    this->local_weights();
    __syncthreads();
    this->sum_local_delta();
    this->pooled_keys();
    __syncthreads();
    this->local_logit_gradients();
    __syncthreads();
    this->query_gradients();
    this->key_gradients();
    __syncthreads();
    parameter_sums();
  }

 private:
  using Tile::kChunks, Tile::kWarps, Tile::thread, Tile::channels, Tile::cells, Tile::floats,
      Tile::ints, Tile::row, Tile::owned_query, Tile::p_, Tile::in_, Tile::plan_, Tile::workspace_,
      Tile::head, Tile::bias, Tile::owned, Tile::queries;

  // The block's sums over its queries: scale, query embedding [d], local bias [L], token bias [L],
  // tokens [L, d]. Each warp adds some of the queries; the warps' partial sums overwrite the pooled
  // keys in shared memory.
  __device__ void parameter_sums() {
    if (plan_.parameters == 0) return;
    float* sums = workspace_ + plan_.parameter_sums + index_t{blockIdx.x} * plan_.parameters;
    scalar_sums(sums);
    if (p_.d_tokens.present()) token_sums(sums + 1 + channels() + 2 * cells());
  }

  __device__ void scalar_sums(float* sums) {
    const AttentionTokenShared& at = plan_.shared;
    const int lane = this->lane();
    const int warp = this->warp();
    const int count = this->owned().cells();
    const int size = 1 + channels() + 2 * cells();
    float* partial_sums = floats(at.pool_key);  // [kWarps][32]
#pragma unroll 1
    for (int first = 0; first < size; first += 32) {
      const int e = first + lane < size ? first + lane : size - 1;
      const int cell = e - 1 - channels();
      const bool of_cell = cell >= 0;
      const float* values = floats(at.gradient) + e - 1;
      if (e == 0) values = floats(at.d_scale);
      if (of_cell) values = floats(cell < cells() ? at.probability : at.d_weight) + cell % cells();
      const int stride = of_cell ? cells() : e == 0 ? 1 : kDim;
      float sum = 0.0f;
#pragma unroll 1
      for (int own = first + lane < size ? warp : count; own < count; own += kWarps)
        sum += values[(of_cell ? owned_query(own) : own) * stride];
      __syncthreads();
      partial_sums[thread()] = sum;
      __syncthreads();
      if (warp > 0 || first + lane >= size) continue;
#pragma unroll
      for (int other = 1; other < kWarps; ++other) sum += partial_sums[other * 32 + lane];
      sums[e] = sum;
    }
  }

  // A lane computes eight channels of one cell's tokens.
  __device__ void token_sums(float* sums) {
    const AttentionTokenShared& at = plan_.shared;
    const int lane = this->lane();
    const int count = this->owned().cells();
    const int items = cells() * kChunks;
    float* partial_sums = floats(at.pool_key);  // [kWarps][32][8]
#pragma unroll 1
    for (int first = 0; first < items; first += 32) {
      const int item = first + lane < items ? first + lane : items - 1;
      const int j = item / kChunks;
      const int chunk = item - j * kChunks;
      float sum[8] = {};
#pragma unroll 1
      for (int own = first + lane < items ? this->warp() : count; own < count; own += kWarps) {
        const int i = owned_query(own);
        const float d_weight = floats(at.d_weight)[i * cells() + j] * floats(at.query_inverse)[i];
        float q[8];
        load_vec8(row(at.query, i) + chunk * 8, q);
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[c] += d_weight * q[c];
      }
      __syncthreads();
      store_vec8(sum, partial_sums + thread() * 8);
      __syncthreads();
      const int its_item = first + thread() / 8;
      const int c = its_item % kChunks * 8 + thread() % 8;
      if (its_item >= items || c >= channels()) continue;
      float total = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) total += partial_sums[warp * 256 + thread()];
      sums[its_item / kChunks * channels() + c] = total;
    }
  }
};

}  // namespace device

// Block (kAttentionTokenThreads). Grid: (head, tile, image), heads fastest, since rows of
// neighbouring heads share sectors.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionTokenThreads, kDim <= 32 ? 2 : 1)
    aggregated_attention_backward_tokens(AggregatedAttentionBackwardLaunch launch) {
  device::BackwardTokens<T, kDim>(launch, blockIdx.x).run();
}

}  // namespace transnext
