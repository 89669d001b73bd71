// The gradients of blocks of queries in the backward of aggregated attention, whose formulas are in
// aggregated_attention_backward.cpp: probabilities and logit gradients of the pooled keys, d_q, and
// the block's terms in the partial sums of the pooled and parameter gradients.
#pragma once

#include "cpu/attention/token_prefetch.h"
#include "cpu/attention/window_gradients.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
class QueryGradients {
 public:
  QueryGradients(const AggregatedAttentionBackwardParams& p, const AttentionSizes<C>& sizes,
                 const LengthScale<C>& length_scale, const BiasTable<C>& bias_table,
                 AttentionTokenTile<C>& token_tile)
      : p_(p),
        in_(p.in),
        sizes_(sizes),
        pooled_(sizes),
        length_scale_(length_scale),
        token_tile_(token_tile),
        block_(p, sizes, length_scale, token_tile),
        window_(p, sizes, token_tile, block_),
        exact_delta_(element_size(in_.q.dtype) == 2),
        kept_keys_(exact_delta_ && sizes.pooled <= kKeptKeys ? sizes.pooled : kKeyTile),
        query_rows_(kBlock<C> * sizes.width + kLanes<C>),
        d_out_rows_(kBlock<C> * sizes.width + kLanes<C>),
        d_query_(kBlock<C> * sizes.channels),
        tiles_(kept_keys_ * kBlock<C>),
        d_tiles_(kept_keys_ * kBlock<C>),
        delta_(kBlock<C>),
        bias_(bias_table, in_.grid, in_.pool_grid, p.d_pool_bias.present()) {
    // Nothing else writes the padding of rows.
    for (Scratch<C>* rows : {&query_rows_, &d_out_rows_}) rows->zero();
  }

  // Call when the token tile has moved. The pooled gradients may be null.
  void start(const ParameterPartialSums<C>& partial_sums, C* d_pool_keys, C* d_pool_values) {
    partial_sums_ = partial_sums;
    d_pool_keys_ = d_pool_keys;
    d_pool_values_ = d_pool_values;
    pooled_.load(in_, token_tile_.batch(), token_tile_.head());
    block_.start();
  }

  // Prefetches the tokens of the next work item during the next `queries` queries.
  void prefetch(const HeadWorkItem& next, index_t queries) {
    const index_t halo = token_tile_.query_halo();
    prefetch_.start(next, sizes_.tokens);
    for (const View<4>* tensor : {&in_.q, &p_.d_out, &p_.out}) prefetch_.add(*tensor, halo);
    for (const View<4>* tensor : {&in_.k, &in_.v})
      prefetch_.add(*tensor, halo + sizes_.window.halo());
    for (const View<4>* gradient : {&p_.d_q, &p_.d_k, &p_.d_v}) prefetch_.add(*gradient, 0);
    for (const View<4>* tensor : {&in_.k_pool, &in_.v_pool, &p_.d_k_pool, &p_.d_v_pool})
      prefetch_.add_pooled(*tensor);
    prefetch_.spread((queries + kWidth - 1) / kWidth, 4 + 6 * sizes_.key_tiles());
  }

  // Computes what the token tile keeps of the queries begin .. end - 1. If the tile owns them, adds to
  // the partial sums: the pooled gradients ([P][d] each, of the normalised keys) and the parameters'.
  void run(index_t begin, index_t end, bool owned) {
    for (index_t first = begin; first < end; first += kWidth) {
      const index_t count = smaller(kWidth, end - first);
      block_.load_queries(first, count);
      prefetch_.advance();
      window_.find_weights(first, count);
      prefetch_.advance();
      find_delta(first, count);
      window_.find_logit_gradients(delta_.data());
      prefetch_.advance();
      if (owned) owned_block(first, count);
      prefetch_.advance();
    }
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;
  static constexpr index_t kKeptKeys = 1024;  // 128 KiB of floats each for a_m and D_m

  void find_delta(index_t first, index_t count) {
    bias_.start(token_tile_.head(), first, count);
    Vector<C> delta[2] = {};
    if (exact_delta_) {
      window_.add_delta(delta);
      for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
        const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
        pooled_tile(first, count, key, keys);
        for (index_t m = 0; m < keys; ++m)
          add_products<C>(tile(key) + m * kWidth, d_tile(key) + m * kWidth, delta);
      }
    } else {
      load_block<C>(token_major(p_.out, token_tile_.batch(), token_tile_.head()), first, 0, count,
                    d_query_.data(), kWidth);
      window_.start_delta(delta);
      for (index_t c = 0; c < sizes_.channels; ++c)
        add_products<C>(&d_query_[c * kWidth],
                        token_tile_.d_out(first) + c * token_tile_.query_stride(), delta);
    }
    for (int v = 0; v < 2; ++v) store(&delta_[v * n], delta[v]);
  }

  // Probabilities of the pooled keys from `key` on, and their gradients. A block keeps those of all
  // keys if they are needed twice and fit.
  C* tile(index_t key) { return &tiles_[key < kept_keys_ ? key * kWidth : 0]; }
  C* d_tile(index_t key) { return &d_tiles_[key < kept_keys_ ? key * kWidth : 0]; }

  // tile(key) = probabilities a_m, d_tile(key) = their gradients D_m or, if delta is already known,
  // those of the logits.
  void pooled_tile(index_t first, index_t count, index_t key, index_t keys) {
    const index_t lanes = lanes_in_use<C>(count);
    C* probabilities = tile(key);
    if (bias_.present()) bias_.fill(probabilities, key, keys);
    multiply<C, 1>(keys, sizes_.channels, lanes, {pooled_.keys(key), 1, kKeyTile},
                   {token_tile_.query(first), token_tile_.query_stride()}, {probabilities, kWidth},
                   LaneRows<const C>{bias_.present() ? probabilities : nullptr, kWidth});
    prefetch_.advance();
    multiply<C, 1>(keys, sizes_.channels, lanes, {pooled_.values(key), 1, kKeyTile},
                   {token_tile_.d_out(first), token_tile_.query_stride()}, {d_tile(key), kWidth},
                   LaneRows<const C>{nullptr, 0});
    prefetch_.advance();
    for (index_t lane = lanes; lane < kWidth; lane += n / 2) {
      for (index_t at = lane; at < keys * kWidth; at += kWidth) {
        store(probabilities + at, HalfVector<C>{});
        store(d_tile(key) + at, HalfVector<C>{});
      }
    }
    const Vector<C> log_sum_exp[2] = {load<Vector<C>>(block_.log_sum_exp()),
                                      load<Vector<C>>(block_.log_sum_exp() + n)};
    const Vector<C> delta[2] = {load<Vector<C>>(&delta_[0]), load<Vector<C>>(&delta_[n])};
    C* gradients = d_tile(key);
    if (exact_delta_) return weigh(probabilities, keys, log_sum_exp);
    weigh(probabilities, keys, log_sum_exp, [&](index_t at, int v, Vector<C> probability) {
      store(gradients + at, probability * (load<Vector<C>>(gradients + at) - delta[v]));
    });
  }

  // The gradients that only the owner of a query computes: d_q, pooled and parameter gradients.
  void owned_block(index_t first, index_t count) {
    const index_t width = sizes_.width;
    window_.gather_keys(d_query_.data());
    if (d_pool_keys_ != nullptr)
      store_block<C>(row_tokens(query_rows_.data(), width, sizes_.channels), 0, kWidth,
                     token_tile_.query(first), token_tile_.query_stride());
    LaneRows<const C> d_out_rows{};
    if (d_pool_values_ != nullptr)
      d_out_rows = token_rows(p_.d_out, first, token_tile_.d_out(first), token_tile_.query_stride(),
                              d_out_rows_);
    const Vector<C> delta[2] = {load<Vector<C>>(&delta_[0]), load<Vector<C>>(&delta_[n])};
    for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
      const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
      if (!exact_delta_ || kept_keys_ < sizes_.pooled) pooled_tile(first, count, key, keys);
      prefetch_.advance();
      if (d_pool_values_ != nullptr) {
        multiply<C, kWidth>(keys, count, width, {tile(key), kWidth, 1}, d_out_rows,
                            {d_pool_values_ + key * width, width},
                            LaneRows<const C>{d_pool_values_ + key * width, width});
      }
      prefetch_.advance();
      C* gradients = d_tile(key);
      if (exact_delta_) {
        for (index_t m = 0; m < keys; ++m) {
          for (int v = 0; v < 2; ++v) {
            const index_t at = m * kWidth + v * n;
            store(gradients + at,
                  load<Vector<C>>(tile(key) + at) * (load<Vector<C>>(gradients + at) - delta[v]));
          }
        }
      }
      multiply<C, kKeyTile>(sizes_.channels, keys, lanes_in_use<C>(count),
                            {pooled_.keys(key), kKeyTile, 1}, {gradients, kWidth},
                            {d_query_.data(), kWidth}, LaneRows<const C>{d_query_.data(), kWidth});
      prefetch_.advance();
      if (d_pool_keys_ != nullptr) {
        multiply<C, kWidth>(keys, count, width, {gradients, kWidth, 1}, {query_rows_.data(), width},
                            {d_pool_keys_ + key * width, width},
                            LaneRows<const C>{d_pool_keys_ + key * width, width});
      }
      prefetch_.advance();
      if (p_.d_pool_bias.present()) bias_.add_gradient(gradients, key, keys, d_pool_bias());
    }
    parameter_gradients(first);
    prefetch_.advance();
    if (p_.d_q.present()) query_gradient(first, count);
  }

  // A block's tokens as rows, channels in the lanes: in place if they have the compute type and
  // contiguous channels that fill half vectors, else copied from their panel.
  LaneRows<const C> token_rows(const View<4>& tensor, index_t first, const C* panel, index_t stride,
                               Scratch<C>& copy) {
    const TokenView view = token_major(tensor, token_tile_.batch(), token_tile_.head());
    if (element_size(view.dtype) == static_cast<index_t>(sizeof(C)) && view.channel_stride == 1 &&
        view.channels == sizes_.width)
      return {static_cast<const C*>(view.data) + first * view.token_stride, view.token_stride};
    store_block<C>(row_tokens(copy.data(), sizes_.width, sizes_.channels), 0, kWidth, panel,
                   stride);
    return {copy.data(), sizes_.width};
  }

  C* d_pool_bias() {
    return in_.pool_bias.dense() ? &element<C>(p_.d_pool_bias, token_tile_.head(), 0, 0)
                                 : partial_sums_.pool_bias();
  }

  void parameter_gradients(index_t first) {
    const Vector<C> scaling[2] = {load<Vector<C>>(block_.scaling()),
                                  load<Vector<C>>(block_.scaling() + n)};
    Vector<C> along_query[2] = {};
    Vector<C> along_embedding[2] = {};
    for (index_t c = 0; c < sizes_.channels; ++c) {
      auto d_embedding = load<Vector<C>>(partial_sums_.query_embedding() + c * n);
      for (int v = 0; v < 2; ++v) {
        const auto gradient = load<Vector<C>>(&d_query_[c * kWidth + v * n]);
        d_embedding += gradient * scaling[v];
        along_query[v] += gradient * load<Vector<C>>(block_.raw() + c * kWidth + v * n);
        along_embedding[v] += gradient * block_.embedding()[c];
      }
      store(partial_sums_.query_embedding() + c * n, d_embedding);
    }
    auto d_scale = load<Vector<C>>(partial_sums_.scale());
    for (int v = 0; v < 2; ++v) {
      const auto along =
          along_query[v] * load<Vector<C>>(block_.inverse_norms() + v * n) + along_embedding[v];
      d_scale += along * load<Vector<C>>(length_scale_.at(first) + v * n);
    }
    store(partial_sums_.scale(), d_scale);
    window_.add_bias_gradients(partial_sums_);
    if (window_.has_token_gradient())
      window_.add_token_gradients(partial_sums_,
                                  token_rows(in_.q, first, block_.raw(), kWidth, query_rows_));
  }

  // d_query_ becomes d_qn, then d_q.
  void query_gradient(index_t first, index_t count) {
    for (int v = 0; v < 2; ++v) {
      const auto scaling = load<Vector<C>>(block_.scaling() + v * n);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &d_query_[c * kWidth + v * n];
        store(at, load<Vector<C>>(at) * scaling);
      }
    }
    window_.add_tokens(d_query_.data());
    normalisation_gradient(sizes_.channels, block_.raw(), kWidth, block_.inverse_norms(),
                           d_query_.data());
    store_block<C>(token_major(p_.d_q, token_tile_.batch(), token_tile_.head()), first, count,
                   d_query_.data(), kWidth);
  }

  const AggregatedAttentionBackwardParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionSizes<C>& sizes_;
  PooledTokens<C> pooled_;
  const LengthScale<C>& length_scale_;
  AttentionTokenTile<C>& token_tile_;
  BackwardQueryBlock<C> block_;
  WindowGradients<C> window_;
  bool exact_delta_;
  index_t kept_keys_;      // keys whose a_m and D_m are kept for a block of queries
  Scratch<C> query_rows_;  // [block][d] qh, then q
  Scratch<C> d_out_rows_;  // [block][d]
  Scratch<C> d_query_;     // [d][block] d_qh, then d_qn, then d_q
  Scratch<C> tiles_;       // [kept keys][block] a_m
  Scratch<C> d_tiles_;     // [kept keys][block] D_m, then d_p_m
  Scratch<C> delta_;       // [block]
  BlockBias<C> bias_;
  TokenPrefetch prefetch_;
  ParameterPartialSums<C> partial_sums_{};
  C* d_pool_keys_ = nullptr;
  C* d_pool_values_ = nullptr;
};

TRANSNEXT_END_LEVEL
