// A token tile in the backward of aggregated attention (aggregated_attention_backward.cpp): its
// queries, keys and values with the terms of their window cells, tokens in the lanes, and the
// gradients of its keys and values, which are sums over the queries that see them.
#pragma once

#include "cpu/attention/attention_gradients.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
class AttentionTokenTile {
 public:
  AttentionTokenTile(const AggregatedAttentionBackwardParams& p, const AttentionSizes<C>& sizes,
                     index_t longest)
      : p_(p),
        sizes_(sizes),
        local_(sizes.window.cells()),
        halo_(local_ > 0 ? round_up(sizes.window.halo(), kLanes<C>) : 0),
        query_halo_(key_gradients() ? halo_ : 0),
        query_stride_(round_up(longest + 2 * query_halo_, kBlock<C>) + kBlock<C>),
        key_stride_(local_ > 0 ? query_stride_ + round_up(2 * halo_, kBlock<C>) + kBlock<C> : 0),
        keys_(key_stride_ * sizes.channels),
        values_(key_stride_ * sizes.channels),
        inverse_norms_(key_stride_),
        query_(query_stride_ * sizes.channels),
        d_out_(query_stride_ * sizes.channels),
        d_logits_(query_stride_ * local_),
        weights_(query_stride_ * local_),
        cells_(local_),
        gradient_(kBlock<C> * sizes.channels) {}

  // Moves to the tokens from `first` on.
  void start(index_t batch, index_t head, index_t first) {
    batch_ = batch;
    head_ = head;
    query_first_ = first - query_halo_;
    key_first_ = query_first_ - halo_;
    loaded_ = 0;
  }

  // Loads the keys and values that queries before `end` see, unless they are already loaded.
  void load(index_t end) {
    if (local_ == 0) return;
    const index_t needed = round_up(end + halo_ - key_first_, kBlock<C>) - loaded_;
    load_panel<C>(token_major(p_.in.k, batch_, head_), sizes_.tokens,
                  {keys_.data(), key_stride_, key_first_}, loaded_, needed, inverse_norms_.data());
    load_panel<C>(token_major(p_.in.v, batch_, head_), sizes_.tokens,
                  {values_.data(), key_stride_, key_first_}, loaded_, needed);
    loaded_ += larger(needed, 0);
  }

  bool key_gradients() const { return p_.d_k.present() || p_.d_v.present(); }
  index_t batch() const { return batch_; }
  index_t head() const { return head_; }
  // How many queries before and after the token tile's own are needed too.
  index_t query_halo() const { return query_halo_; }

  // The panels from token `first` on, and their strides from channel to channel or cell to cell.
  C* query(index_t first) { return query_.data() + (first - query_first_); }  // qh
  C* d_out(index_t first) { return d_out_.data() + (first - query_first_); }
  C* d_logits(index_t first, index_t j) {
    return &d_logits_[j * query_stride_ + (first - query_first_)];
  }
  C* weights(index_t first, index_t j) {  // w_j
    return &weights_[j * query_stride_ + (first - query_first_)];
  }
  const C* keys(index_t first) const { return keys_.data() + (first - key_first_); }
  const C* key_inverse_norms(index_t first) const {
    return inverse_norms_.data() + (first - key_first_);
  }
  const C* values(index_t first) const { return values_.data() + (first - key_first_); }
  index_t query_stride() const { return query_stride_; }
  index_t key_stride() const { return key_stride_; }

  // Writes d_k and d_v of a block of the token tile's own tokens, once all queries that see them
  // are done.
  void write_key_gradients(index_t first, index_t count) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToQueries, cells_.data());
    C* gradient = gradient_.data();
    const C* nothing = nullptr;
    if (p_.d_v.present()) {
      gather<true>(sizes_.channels, cells_.data(), active, count, weights(first, 0), query_stride_,
                   d_out(first), query_stride_, nothing, gradient, kBlock<C>);
      store_block<C>(token_major(p_.d_v, batch_, head_), first, count, gradient, kBlock<C>);
    }
    if (!p_.d_k.present()) return;
    gather<true>(sizes_.channels, cells_.data(), active, count, d_logits(first, 0), query_stride_,
                 query(first), query_stride_, nothing, gradient, kBlock<C>);
    normalisation_gradient(sizes_.channels, keys(first), key_stride_, key_inverse_norms(first),
                           gradient);
    store_block<C>(token_major(p_.d_k, batch_, head_), first, count, gradient, kBlock<C>);
  }

 private:
  const AggregatedAttentionBackwardParams& p_;
  const AttentionSizes<C>& sizes_;
  index_t local_;  // L
  index_t halo_;   // a window's reach in tokens, whole vectors
  index_t query_halo_;
  index_t query_stride_;      // tokens in the panels of queries
  index_t key_stride_;        // tokens in the panels of keys
  Scratch<C> keys_;           // [d][key_stride]
  Scratch<C> values_;         // [d][key_stride]
  Scratch<C> inverse_norms_;  // [key_stride]
  Scratch<C> query_;          // [d][query_stride] qh
  Scratch<C> d_out_;          // [d][query_stride]
  Scratch<C> d_logits_;       // [L][query_stride]
  Scratch<C> weights_;        // [L][query_stride] w_j
  Scratch<Cell<C>> cells_;    // [L]
  Scratch<C> gradient_;       // [d][block] d_v and d_k of a block
  index_t batch_ = 0;
  index_t head_ = 0;
  index_t query_first_ = 0;  // first token of the panels of queries; negative at an image's start
  index_t key_first_ = 0;
  index_t loaded_ = 0;  // tokens from key_first_ on
};

TRANSNEXT_END_LEVEL
