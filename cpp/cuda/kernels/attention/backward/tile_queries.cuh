// aggregated_attention backward, the tokens' side in tiles: the weights of the queries' windows, delta, and the
// gradients of queries, keys and values.
#pragma once

#include "cuda/kernels/attention/backward/pooled_keys.cuh"
#include "cuda/kernels/attention/backward/tile.cuh"
#include "cuda/kernels/common/vec8.cuh"

namespace transnext::device {

// A warp's 16 queries, in the order with the owned ones first; what is beyond the last is the last.
struct TilePatch {
  const int* order;
  int first, count;

  __device__ int number(int half) const { return first + thread_index() % 32 / 4 + 8 * half; }
  __device__ int row(int i) const { return order[min(first + i, count - 1)]; }
  __device__ int index(int half) const { return order[min(number(half), count - 1)]; }
  __device__ int query(int half) const { return index(half); }
};

// The block synchronises between one function and the next.
template <class T, int kDim>
struct TileQueries {
  using Tile = BackwardTile<T, kDim>;
  static constexpr int kChunks = Tile::kChunks;

  const Tile& tile;

  // a_j, D_j, w_j of every query: a thread computes three cells of one query.
  __device__ void find_weights() const {
    constexpr int kRun = 3;
    const Rectangle queries = tile.state().queries;
    const Rectangle keys = tile.state().keys;
    const int cells = tile.cells();
    const int runs = (cells + kRun - 1) / kRun;
    const TileCorner image = tile.corner();
#pragma unroll 1
    for (int item = thread_index(); item < queries.cells() * runs; item += Tile::threads()) {
      const int query = item / runs;
      const int first = item % runs * kRun;
      const int top = queries.row(query) - tile.window() / 2;
      const int left = queries.column(query) - tile.window() / 2;
      int key[kRun], cell[kRun];
      float logit[kRun] = {}, d_weight[kRun] = {}, positional[kRun] = {};
      int down = first / tile.window();
      int right = first - down * tile.window();
#pragma unroll
      for (int r = 0; r < kRun; ++r) {
        cell[r] = min(first + r, cells - 1);
        const bool seen = first + r < cells && image.inside(top + down, left + right);
        key[r] = seen ? keys.index(top + down, left + right) : -1;
        if (++right == tile.window()) {
          right = 0;
          ++down;
        }
      }
#pragma unroll(kDim <= 32 ? kChunks : 1)
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        float q[8], d_out[8];
        load_vec8(row(tile.queries(), query) + chunk * 8, q);
        load_vec8(row(tile.d_outs(), query) + chunk * 8, d_out);
#pragma unroll
        for (int r = 0; r < kRun; ++r) {
          const int at_key = key[r] < 0 ? 0 : key[r];
          logit[r] = dot_vec8(row(tile.keys(), at_key) + chunk * 8, q, logit[r]);
          d_weight[r] = dot_vec8(row(tile.values(), at_key) + chunk * 8, d_out, d_weight[r]);
          positional[r] = dot_vec8(tile.token(cell[r]) + chunk * 8, q, positional[r]);
        }
      }
      const BackwardQuery terms = tile.query_terms()[query];
      const float factor = tile.state().scale * tile.lengths()[query];
#pragma unroll
      for (int r = 0; r < kRun; ++r) {
        if (first + r >= cells) break;
        float probability = 0.0f, weight = 0.0f;
        if (key[r] >= 0) {
          const float2 of_key = tile.key_terms()[key[r]];
          const float2 of_cell = tile.window_terms()[cell[r]];
          const float value = factor * (logit[r] * terms.norm * of_key.x + of_key.y) + of_cell.x;
          probability = exp2_fast(value * kLog2E + terms.offset);
          weight = probability + positional[r] * terms.norm + of_cell.y;
        } else {
          d_weight[r] = 0.0f;
        }
        tile.d_logit(query, first + r) = probability;
        tile.d_weight(query, first + r) = d_weight[r];
        tile.weight(query, first + r) = weight;
      }
    }
  }

  // The windows' parts of delta and of the probabilities' sum; the pooled keys overwrite the values, of
  // which their last rows are not loaded.
  __device__ void begin_delta() const {
#pragma unroll 1
    for (int query = thread_index(); query < tile.step_queries(); query += Tile::threads()) {
      float sum = 0.0f, total = 0.0f;
#pragma unroll 1
      for (int j = 0; j < tile.cells(); ++j) {
        const float probability = tile.d_logit(query, j);
        sum += probability * tile.d_weight(query, j);
        total += probability;
      }
      tile.deltas()[query] = float2{sum, total};
    }
    clear_rows(tile.pool_keys(), kPooledChunkRows);
    clear_rows(tile.pool_values(), attention_pooled_values(kDim));
  }

  // Finishes delta, and computes the pooled keys' part of the owned queries' gradients.
  __device__ void add_pooled_keys() const {
    const PooledKeys<Tile> pooled{tile};
    if (pooled.stays()) pooled.load(0);
    const int count = tile.step_queries();
#pragma unroll 1
    for (int begin = 0; begin < count; begin += Tile::threads() / 2) {
      const TilePatch patch{tile.order(), begin + thread_index() / 32 * 16, count};
      const bool inside = patch.first < count;
      LaneQueries queries;
      if (inside && thread_index() % 4 == 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float2 of_window = tile.deltas()[patch.index(h)];
          queries.delta[h] = of_window.x;
          queries.total[h] = of_window.y;
        }
      }
      const int owned = tile.state().owned.cells();
      float sum[kChunks][4];
      pooled.accumulate(patch, inside, patch.first < owned, queries, sum);
      if (!inside) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int own = patch.number(h);
        if (thread_index() % 4 == 0 && own < count)
          tile.deltas()[patch.index(h)].x = queries.delta[h];
        if (own >= owned) continue;
        const float norm = tile.query_terms()[patch.index(h)].d_out_norm;
        float* gradient = tile.gradient(own) + thread_index() % 4 * 2;
#pragma unroll
        for (int i = 0; i < kChunks; ++i)
          *reinterpret_cast<float2*>(gradient + 8 * i) =
              float2{sum[i][2 * h] * norm, sum[i][2 * h + 1] * norm};
      }
    }
  }

  // Overwrites a_j with d_l_j, and stores the owned queries' terms for the pooled side.
  __device__ void find_logit_gradients() const {
    const BackwardTileState& state = tile.state();
    const int cells = tile.cells();
#pragma unroll 1
    for (int i = thread_index(); i < tile.step_queries() * cells; i += Tile::threads()) {
      const int query = i / cells;
      tile.d_logit(query, i - query * cells) *=
          tile.d_weight(query, i - query * cells) - tile.deltas()[query].x;
    }
    if (!tile.plan.query_terms_stay) return;
    float4* terms =
        reinterpret_cast<float4*>(tile.workspace + tile.plan.query_terms) +
        (index_t{state.batch} * tile.p.in.q.shape[2] + state.head) * tile.p.in.grid.size();
#pragma unroll 1
    for (int own = thread_index(); own < state.owned.cells(); own += Tile::threads()) {
      const Rectangle::Cell cell = state.owned.cell(own);
      const int query = state.queries.index(cell.row, cell.column);
      const BackwardQuery of_query = tile.query_terms()[query];
      const float factor = state.scale * tile.lengths()[query];
      terms[cell.row * tile.width() + cell.column] =
          float4{factor * of_query.norm, factor, of_query.offset, tile.deltas()[query].x};
    }
  }

  // d_q; four lanes to a token. d_qh scale s stays in shared memory for the sums.
  __device__ void store_query_gradients() const {
    const Rectangle queries = tile.state().queries;
    const Rectangle keys = tile.state().keys;
    const HeadRows<T> d_q(tile.p.d_q, tile.state());
    for_owned([&](bool valid, int own, int row, int column, int c) {
      const int query = queries.index(row, column);
      const float norm = tile.query_terms()[query].norm;
      const float length = tile.lengths()[query];
      float gradient[kChunks][2] = {}, positional[kChunks][2] = {};
      tile.for_cells(row - tile.window() / 2, column - tile.window() / 2, [&](int y, int x, int j) {
        const int key = keys.index(y, x);
        const float d_logit = tile.d_logit(query, j) * tile.key_terms()[key].x;
        const float d_weight = tile.d_weight(query, j);
        const float* token = tile.token(j) + c;
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          const float2 k = tile.keys().pair(key, 8 * i + c);
          const float2 of_token = *reinterpret_cast<const float2*>(token + 8 * i);
          gradient[i][0] += d_logit * k.x;
          gradient[i][1] += d_logit * k.y;
          positional[i][0] += d_weight * of_token.x;
          positional[i][1] += d_weight * of_token.y;
        }
      });
      float2 unit[kChunks];
      float along = 0.0f;
      const float factor = tile.state().scale * length;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const float2 q = tile.queries().pair(query, 8 * i + c);
        unit[i] = {q.x * norm, q.y * norm};
        const float* embedding = tile.embedding() + 8 * i + c;
        float2* stored = reinterpret_cast<float2*>(tile.gradient(own) + 8 * i + c);
        const float2 of_pooled = valid ? *stored : float2{0.0f, 0.0f};
        const float2 both = {gradient[i][0] + of_pooled.x, gradient[i][1] + of_pooled.y};
        along += both.x * (unit[i].x + embedding[0]) + both.y * (unit[i].y + embedding[1]);
        gradient[i][0] = both.x * factor;
        gradient[i][1] = both.y * factor;
        if (valid) *stored = float2{gradient[i][0], gradient[i][1]};
        gradient[i][0] += positional[i][0];
        gradient[i][1] += positional[i][1];
      }
      along = sum_of_four(along);
      if (valid && c == 0) tile.d_scale(own) = along * length;
      if (!tile.p.d_q.present()) return;
      through_normalisation(unit, norm, 1.0f, gradient);
      if (valid) d_q.store_pairs(row * tile.width() + column, c, gradient);
    });
  }

  // d_k and d_v, of the queries in whose windows a key lies; four lanes to a token.
  __device__ void store_key_gradients() const {
    if (tile.window() == 0 || !(tile.p.d_k.present() || tile.p.d_v.present())) return;
    const Rectangle queries = tile.state().queries;
    const Rectangle keys = tile.state().keys;
    const HeadRows<T> d_k(tile.p.d_k, tile.state());
    const HeadRows<T> d_v(tile.p.d_v, tile.state());
    const int behind = tile.window() - 1 - tile.window() / 2;  // the flipped window
    for_owned([&](bool valid, int, int row, int column, int c) {
      float d_key[kChunks][2] = {}, d_value[kChunks][2] = {}, embedded = 0.0f;
      tile.for_cells(row - behind, column - behind, [&](int y, int x, int flipped) {
        const int j = tile.cells() - 1 - flipped;
        const int query = queries.index(y, x);
        const float d_logit = tile.d_logit(query, j) * tile.state().scale * tile.lengths()[query];
        const float d_unit = d_logit * tile.query_terms()[query].norm;
        const float weight = tile.weight(query, j);
        embedded += d_logit;
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          const float2 q = tile.queries().pair(query, 8 * i + c);
          const float2 d_out = tile.d_outs().pair(query, 8 * i + c);
          d_key[i][0] += d_unit * q.x;
          d_key[i][1] += d_unit * q.y;
          d_value[i][0] += weight * d_out.x;
          d_value[i][1] += weight * d_out.y;
        }
      });
      const int token = row * tile.width() + column;
      if (valid && tile.p.d_v.present()) d_v.store_pairs(token, c, d_value);
      if (!tile.p.d_k.present()) return;
      const int key = keys.index(row, column);
      const float norm = tile.key_terms()[key].x;
      float2 unit[kChunks];
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const float2 k = tile.keys().pair(key, 8 * i + c);
        unit[i] = {k.x * norm, k.y * norm};
        d_key[i][0] += embedded * tile.embedding()[8 * i + c];
        d_key[i][1] += embedded * tile.embedding()[8 * i + c + 1];
      }
      through_normalisation(unit, norm, 1.0f, d_key);
      if (valid) d_k.store_pairs(token, c, d_key);
    });
  }

 private:
  // Sets the rows beyond a chunk's keys to zero.
  static __device__ void clear_rows(const typename Tile::Rows& rows, int end) {
    const int count = (end - kPooledChunkKeys) * Tile::Rows::kRowBytes / kVector16Bytes;
#pragma unroll 1
    for (int i = thread_index(); i < count; i += Tile::threads())
      reinterpret_cast<float4*>(rows.vector(kPooledChunkKeys, 0))[i] =
          float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
  static __device__ const T* row(const typename Tile::Rows& rows, int index) {
    return rows.vector(index, 0)->values;
  }

  // Calls visit(valid, own, row, column, channel) for the owned tokens, by four lanes each, which have
  // channels 8 i + channel and the next for all i; whole warps, also with a token that is not theirs.
  template <class Visit>
  __device__ void for_owned(const Visit& visit) const {
    const Rectangle owned = tile.state().owned;
#pragma unroll 1
    for (int item = thread_index() / 4; item < (owned.cells() + 7) / 8 * 8;
         item += Tile::threads() / 4) {
      const bool valid = item < owned.cells();
      const int own = valid ? item : 0;
      const Rectangle::Cell cell = owned.cell(own);
      visit(valid, own, cell.row, cell.column, thread_index() % 4 * 2);
    }
  }
};

}  // namespace transnext::device
