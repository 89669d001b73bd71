// What the forward and the backward of aggregated attention share: sizes, panels of pooled keys and
// values, the logit length scale and the pooled bias.
#pragma once

#include "cpu/multiply.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "cpu/window_cells.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

template <class E, int kRank, class... Indices>
inline E& element(const View<kRank>& view, Indices... indices) {
  static_assert(sizeof...(Indices) == kRank);
  const index_t at[] = {static_cast<index_t>(indices)...};
  index_t offset = 0;
  for (int i = 0; i < kRank; ++i) offset += at[i] * view.stride[i];
  return static_cast<E*>(view.data)[offset];
}

constexpr index_t kKeyTile =
    64;  // pooled keys whose logits are held at a time: [64][block], 4 KiB of floats

template <class C>
struct AttentionSizes {
  explicit AttentionSizes(const AggregatedAttentionInputs& in)
      : batches(in.q.shape[0]),
        tokens(in.grid.size()),
        heads(in.q.shape[2]),
        channels(in.q.shape[3]),
        width(round_up(channels, kLanes<C>)),
        pooled(in.pool_grid.size()),
        window{in.grid, in.window_size} {}

  index_t batches;
  index_t tokens;  // N
  index_t heads;
  index_t channels;  // d
  index_t width;     // d, padded
  index_t pooled;    // P
  Window window;
};

// Pooled keys (normalised) and values of every image and head in the compute type, [B, h][P][padded
// d]: they are read once per block of queries, so they are converted and normalised once per call.
template <class C>
class PooledTokens {
 public:
  PooledTokens(const AggregatedAttentionInputs& in, const AttentionSizes<C>& sizes, int threads)
      : sizes_(sizes),
        keys_(count()),
        values_(count()),
        inverse_norms_(sizes.batches * sizes.heads * sizes.pooled) {
    parallel_for(sizes.batches * sizes.heads, threads, [&](index_t pair) {
      const index_t batch = pair / sizes.heads;
      const index_t head = pair % sizes.heads;
      C* keys = &keys_[pair * sizes.pooled * sizes.width];
      load_rows(token_major(in.k_pool, batch, head), 0, sizes.pooled, sizes.pooled, keys,
                sizes.width);
      normalise_rows(sizes.pooled, keys, sizes.width, &inverse_norms_[pair * sizes.pooled]);
      load_rows(token_major(in.v_pool, batch, head), 0, sizes.pooled, sizes.pooled,
                &values_[pair * sizes.pooled * sizes.width], sizes.width);
    });
  }

  const C* keys(index_t batch, index_t head) const {
    return keys_.data() + offset(batch, head) * sizes_.width;
  }
  const C* values(index_t batch, index_t head) const {
    return values_.data() + offset(batch, head) * sizes_.width;
  }
  const C* inverse_norms(index_t batch, index_t head) const {
    return inverse_norms_.data() + offset(batch, head);
  }

 private:
  index_t count() const { return sizes_.batches * sizes_.heads * sizes_.pooled * sizes_.width; }
  index_t offset(index_t batch, index_t head) const {
    return (batch * sizes_.heads + head) * sizes_.pooled;
  }

  const AttentionSizes<C>& sizes_;
  Scratch<C> keys_;
  Scratch<C> values_;
  Scratch<C> inverse_norms_;
};

// s(n) = log(number of window cells inside the image at n + P), tabulated by the number of cells.
template <class C>
class LengthScale {
 public:
  explicit LengthScale(const AttentionSizes<C>& sizes)
      : window_(sizes.window),
        logs_(smaller(sizes.window.size, sizes.window.grid.height) *
                  smaller(sizes.window.size, sizes.window.grid.width) +
              1) {
    for (index_t cells = 0; cells < logs_.size(); ++cells)
      logs_[cells] = static_cast<C>(__builtin_log(static_cast<double>(cells + sizes.pooled)));
  }

  C operator()(index_t token) const {
    const index_t row = token / window_.grid.width;
    const index_t column = token % window_.grid.width;
    return logs_[window_.inside(row, window_.grid.height) *
                 window_.inside(column, window_.grid.width)];
  }

 private:
  Window window_;
  Scratch<C> logs_;
};

// The pooled bias of one head for a block of queries, in the lanes.
template <class C>
class BlockBias {
 public:
  BlockBias(const PoolBias& bias, const Grid& grid, const Grid& pool_grid)
      : bias_(bias),
        grid_(grid),
        pool_grid_(pool_grid),
        taps_(bias.table() ? bias.col_map.shape[2] : 0),
        rows_(bias.table() ? pool_grid.height * kBlock<C> : 0),
        columns_(pool_grid.width * taps_ * kBlock<C>),
        weights_(bias.col_weights.present() ? columns_.size() : 0) {}

  // Prepares for the queries first .. first + count - 1; lanes beyond repeat the last one.
  void start(index_t head, index_t first, index_t count) {
    head_ = head;
    first_ = first;
    count_ = count;
    if (!bias_.table()) return;
    for (index_t lane = 0; lane < kBlock<C>; ++lane) {
      const index_t token = first + smaller(lane, count - 1);
      const index_t i = token / grid_.width;
      const index_t j = token % grid_.width;
      for (index_t a = 0; a < pool_grid_.height; ++a)
        rows_[a * kBlock<C> + lane] =
            element<const int>(bias_.row_map, i, a) * bias_.values.stride[1];
      for (index_t b = 0; b < pool_grid_.width; ++b) {
        for (index_t t = 0; t < taps_; ++t) {
          const index_t at = (b * taps_ + t) * kBlock<C> + lane;
          columns_[at] = element<const int>(bias_.col_map, j, b, t) * bias_.values.stride[2];
          if (weights_.size() > 0) weights_[at] = element<const C>(bias_.col_weights, j, b, t);
        }
      }
    }
  }

  // logits[key - first_key][lane] += bias, for `keys` pooled keys from first_key on.
  void add_to(C* logits, index_t first_key, index_t keys) const {
    if (bias_.dense()) {
      for (index_t lane = 0; lane < count_; ++lane) {
        const C* row = &element<const C>(bias_.values, head_, first_ + lane, first_key);
        for (index_t key = 0; key < keys; ++key)
          logits[key * kBlock<C> + lane] += row[key * bias_.values.stride[2]];
      }
    } else if (bias_.table()) {
      const C* table = &element<const C>(bias_.values, head_, 0, 0);
      for_each_entry(first_key, keys, [&](index_t at, index_t offset, C weight) {
        logits[at] += weight * table[offset];
      });
    }
  }

  // d_bias += the gradient of the same logits. For a dense bias d_bias is [N][P], for a table
  // [R][S]; its strides are those of the bias, that is, both are contiguous.
  void add_gradient(const C* d_logits, index_t first_key, index_t keys, C* d_bias) const {
    if (bias_.dense()) {
      for (index_t lane = 0; lane < count_; ++lane) {
        C* row = d_bias + (first_ + lane) * pool_grid_.size() + first_key;
        for (index_t key = 0; key < keys; ++key) row[key] += d_logits[key * kBlock<C> + lane];
      }
    } else {
      for_each_entry(first_key, keys, [&](index_t at, index_t offset, C weight) {
        d_bias[offset] += weight * d_logits[at];
      });
    }
  }

 private:
  // visit(position in the logits, offset in the table, weight) for every entry that makes up these
  // logits.
  template <class Visit>
  void for_each_entry(index_t first_key, index_t keys, Visit&& visit) const {
    index_t a = first_key / pool_grid_.width;
    index_t b = first_key % pool_grid_.width;
    const bool weighted = weights_.size() > 0;
    for (index_t key = 0; key < keys; ++key) {
      const index_t* rows = &rows_[a * kBlock<C>];
      for (index_t t = 0; t < taps_; ++t) {
        const index_t* columns = &columns_[(b * taps_ + t) * kBlock<C>];
        if (weighted) {
          const C* weights = &weights_[(b * taps_ + t) * kBlock<C>];
          for (index_t lane = 0; lane < kBlock<C>; ++lane)
            visit(key * kBlock<C> + lane, rows[lane] + columns[lane], weights[lane]);
        } else {
          for (index_t lane = 0; lane < kBlock<C>; ++lane)
            visit(key * kBlock<C> + lane, rows[lane] + columns[lane], C(1));
        }
      }
      if (++b == pool_grid_.width) {
        b = 0;
        ++a;
      }
    }
  }

  const PoolBias& bias_;
  Grid grid_;
  Grid pool_grid_;
  index_t taps_;
  Scratch<index_t> rows_;
  Scratch<index_t> columns_;
  Scratch<C> weights_;
  index_t head_ = 0;
  index_t first_ = 0;
  index_t count_ = 0;
};

TRANSNEXT_END_LEVEL
