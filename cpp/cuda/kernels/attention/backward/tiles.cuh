// aggregated_attention backward, the tokens' side: d_q, d_k, d_v, delta, and a block's partial sums of the
// parameters' gradients. With the forward's formulas (transnext/aggregated_attention.h), D_j = d_out
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
// A block owns a tile of tokens (tile.cuh), of any window and head dim; 16-bit types with a window of 3 x 3
// have strips.cuh. The pooled keys are multiplied 16 queries to a warp (pooled_keys.cuh), on tensor cores for
// 16-bit types; the window, by float arithmetic, a thread to a few cells or four to a token
// (tile_queries.cuh).
//
// Per token and head: bytes (6 d + read halos) sizeof(T) + 8; flops about 2 d (7 L + 3 P), and 2 d 2 P
// (queries of the halo / owned - 1).
#pragma once

#include "cuda/kernels/attention/backward/tile_queries.cuh"
#include "cuda/kernels/attention/backward/tile_sums.cuh"

namespace transnext {

namespace device {

template <class T, int kDim>
class TokenTile {
 public:
  __device__ explicit TokenTile(const AggregatedAttentionBackwardLaunch& launch) : tile_(launch) {}

  // Inlined, or the compiler would put the members and a copy of the parameters into local memory.
  __device__ __forceinline__ void run() const {
    const TileQueries<T, kDim> queries{tile_};
    begin();
    __syncthreads();
    load();
    __syncthreads();
    find_norms();
    __syncthreads();
    queries.find_weights();
    __syncthreads();
    queries.begin_delta();
    __syncthreads();
    queries.add_pooled_keys();
    __syncthreads();
    queries.find_logit_gradients();
    __syncthreads();
    queries.store_query_gradients();
    queries.store_key_gradients();
    __syncthreads();
    TileSums<T, kDim>{tile_}.store();
  }

 private:
  using Tile = BackwardTile<T, kDim>;

  // Finds out which tile this is.
  __device__ void begin() const {
    if (thread_index() > 0) return;
    static_assert(sizeof(BackwardTileState) <= kTileStateBytes, "the plan's room for it");
    const AttentionBackwardPlan& plan = tile_.plan;
    const View<1>& scale = tile_.p.in.scale;
    BackwardTileState& state = tile_.state();
    const auto heads = static_cast<unsigned>(tile_.p.in.q.shape[2]);
    const unsigned tiles =
        static_cast<unsigned>(plan.tiles_y) * static_cast<unsigned>(plan.tiles_x);
    const int tile = static_cast<int>(blockIdx.x / heads % tiles);
    state.head = static_cast<int>(blockIdx.x % heads);
    state.batch = static_cast<int>(blockIdx.x / heads / tiles);
    state.top = tile / plan.tiles_x * plan.tile_height;
    state.left = tile % plan.tiles_x * plan.tile_width;
    state.vectors = plan.vectors;
    state.scale = static_cast<const float*>(scale.data)[state.head * scale.stride[0]];
    state.no_bias = 0.0f;
    state.owned = {state.top, state.left, min(plan.tile_height, tile_.height() - state.top),
                   min(plan.tile_width, tile_.width() - state.left)};
    const int before = tile_.window() / 2;
    const int after = tile_.window() > 0 ? tile_.window() - 1 - before : 0;
    // The queries that see a key lie in the flipped window.
    state.queries = state.owned.grown(after, before, tile_.height(), tile_.width());
    state.keys = state.queries.grown(before, after, tile_.height(), tile_.width());
  }

  __device__ void load() const {
    const AggregatedAttentionInputs& in = tile_.p.in;
    const BackwardTileState& state = tile_.state();
    start_copies(in.q, tile_.p.d_out, state.queries, tile_.queries(), tile_.d_outs());
    if (tile_.window() > 0) start_copies(in.k, in.v, state.keys, tile_.keys(), tile_.values());
    commit_copies();
    const WindowParameters parameters(in, state.head);
    if (tile_.warp() == 0) load_embedding(tile_, parameters);
#pragma unroll 1
    for (int cell = thread_index(); cell < tile_.cells(); cell += Tile::threads())
      tile_.window_terms()[cell] = float2{parameters.bias_of(cell), parameters.token_bias_of(cell)};
#pragma unroll 1
    for (int i = thread_index(); i < tile_.cells() * kDim; i += Tile::threads()) {
      const int c = i / tile_.cells();
      const int cell = i - c * tile_.cells();
      tile_.template part<float>(tile_.at().tokens)[cell * kDim + c] = parameters.token(cell, c);
    }
    const PooledKeys<Tile> pooled{tile_};
    pooled.find_bias();
    __syncthreads();
    const View<3>& log_sum_exp = tile_.p.log_sum_exp;
    const TileCorner corner = tile_.corner();
#pragma unroll 1
    for (int query = thread_index(); query < tile_.step_queries(); query += Tile::threads()) {
      const Rectangle::Cell cell = tile_.cell_of(query);
      BackwardQuery& terms = tile_.query_terms()[query];
      terms.offset =
          static_cast<const float*>(
              log_sum_exp.data)[state.batch * log_sum_exp.stride[0] +
                                corner.token(cell.row, cell.column) * log_sum_exp.stride[1] +
                                state.head * log_sum_exp.stride[2]] *
          -kLog2E;
      terms.bias = pooled.query_offset(corner, cell.row, cell.column, query);
      tile_.lengths()[query] =
          length_scale(cell.row, cell.column, tile_.window(), in.grid, tile_.pooled());
    }
    order_queries();
    wait_copies<0>();
  }

  // Numbers the queries, the owned ones first: fewer warps then have gradients to compute.
  __device__ void order_queries() const {
    const Rectangle owned = tile_.state().owned;
#pragma unroll 1
    for (int query = thread_index(); query < tile_.step_queries(); query += Tile::threads()) {
      const Rectangle::Cell cell = tile_.cell_of(query);
      const int row = cell.row - owned.top;
      const int column = cell.column - owned.left;
      const bool in_row = row >= 0 && row < owned.height;
      const int owned_before = min(max(row, 0), owned.height) * owned.width +
                               (in_row ? min(max(column, 0), owned.width) : 0);
      const bool mine = in_row && column >= 0 && column < owned.width;
      tile_.order()[mine ? owned_before : owned.cells() + query - owned_before] = query;
    }
  }

  // Of a rectangle's tokens of two tensors.
  __device__ void start_copies(const View<4>& first, const View<4>& second, const Rectangle& tokens,
                               const typename Tile::Rows& to_first,
                               const typename Tile::Rows& to_second) const {
    constexpr int kVectors = Tile::Rows::kRowVectors16;
    const HeadRows<T> from_first(first, tile_.state());
    const HeadRows<T> from_second(second, tile_.state());
#pragma unroll 1
    for (int i = thread_index(); i < tokens.cells() * kVectors; i += Tile::threads()) {
      const int row = i / kVectors;
      const int vector = i % kVectors;
      const Rectangle::Cell cell = tokens.cell(row);
      const int token = tile_.corner().token(cell.row, cell.column);
      from_first.load(to_first.vector(row, vector), token, vector, true);
      from_second.load(to_second.vector(row, vector), token, vector, true);
    }
  }

  __device__ void find_norms() const {
#pragma unroll 1
    for (int query = thread_index(); query < tile_.step_queries(); query += Tile::threads()) {
      BackwardQuery& terms = tile_.query_terms()[query];
      terms.norm = tile_.queries().inverse_norm(query);
      terms.d_out_norm = OnTensorCores<T>::value ? sqrtf(tile_.d_outs().square(query)) : 1.0f;
    }
    if (tile_.window() == 0) return;
#pragma unroll 1
    for (int key = thread_index(); key < tile_.state().keys.cells(); key += Tile::threads()) {
      const float norm = tile_.keys().inverse_norm(key);
      tile_.key_terms()[key] = float2{norm, tile_.keys().dot(key, tile_.embedding()) * norm};
    }
  }

  const Tile tile_;
};

}  // namespace device

// Block (kAttentionTileThreads). Grid: (head, tile, image), heads fastest, since rows of neighbouring heads
// share sectors.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionTileThreads, kDim <= 32 ? 2 : 1)
    aggregated_attention_backward_tiles(AggregatedAttentionBackwardLaunch launch) {
  device::TokenTile<T, kDim>(launch).run();
}

}  // namespace transnext
