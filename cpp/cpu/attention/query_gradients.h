// The gradients of blocks of queries in the backward of aggregated attention, whose formulas are in
// aggregated_attention_backward.cpp: probabilities and logit gradients, d_q, and the queries' shares
// of the pooled and parameter gradients.
#pragma once

#include "cpu/attention/token_prefetch.h"
#include "cpu/attention/token_tile.h"
#include "cpu/simd/math.h"

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
        local_(sizes.window.cells()),
        exact_delta_(element_size(in_.q.dtype) == 2),
        kept_keys_(exact_delta_ && sizes.pooled <= kKeptKeys ? sizes.pooled : kKeyTile),
        query_rows_(kBlock<C> * sizes.width + kLanes<C>),
        d_out_rows_(kBlock<C> * sizes.width + kLanes<C>),
        raw_query_(kBlock<C> * sizes.channels),
        d_query_(kBlock<C> * sizes.channels),
        embedding_(sizes.channels),
        probabilities_(local_ * kBlock<C>),
        d_weights_(local_ * kBlock<C>),
        positional_(local_ * kBlock<C>),
        positional_part_(kBlock<C>),
        scaled_(local_ * kBlock<C>),
        cells_(local_),
        tiles_(kept_keys_ * kBlock<C>),
        d_tiles_(kept_keys_ * kBlock<C>),
        scaling_(kBlock<C>),
        inverse_norms_(kBlock<C>),
        log_sum_exp_(kBlock<C>),
        delta_(kBlock<C>),
        bias_(bias_table, in_.grid, in_.pool_grid, p.d_pool_bias.present()) {
    // The padding of rows is never written otherwise.
    for (Scratch<C>* rows : {&query_rows_, &d_out_rows_}) rows->zero();
  }

  // Call when the token tile has moved. The pooled gradients may be null.
  void start(const ParameterPartialSums<C>& share, C* d_pool_keys, C* d_pool_values) {
    share_ = share;
    d_pool_keys_ = d_pool_keys;
    d_pool_values_ = d_pool_values;
    pooled_.load(in_, token_tile_.batch(), token_tile_.head());
    load_embedding(in_, token_tile_.head(), embedding_);
  }

  // Has the tokens of the next slice brought into cache meanwhile, from now on until `queries` have
  // been run.
  void ask_for(const HeadWorkItem& next, index_t queries) {
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

  // Computes what the token tile keeps of the queries begin .. end - 1, and if they are the token tile's
  // own, adds to the shares: the pooled gradients ([P][d] each, of the normalised keys) and the
  // parameters'.
  void run(index_t begin, index_t end, bool owned) {
    for (index_t first = begin; first < end; first += kWidth) {
      const index_t count = smaller(kWidth, end - first);
      load_queries(first, count);
      prefetch_.advance();
      const index_t active = local_weights(first, count);
      prefetch_.advance();
      find_delta(first, count, active);
      local_logit_gradients(first, active);
      prefetch_.advance();
      if (owned) owned_block(first, count, active);
      prefetch_.advance();
    }
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;
  static constexpr index_t kKeptKeys = 1024;  // 128 KiB of floats each for a_m and D_m

  void load_queries(index_t first, index_t count) {
    load_block<C>(token_major(in_.q, token_tile_.batch(), token_tile_.head()), first, 0, count,
                  raw_query_.data(), kWidth);
    find_inverse_norms(sizes_.channels, raw_query_.data(), kWidth, inverse_norms_.data());
    const C scale = element<const C>(in_.scale, token_tile_.head());
    const C* log_sum_exp =
        &element<const C>(p_.log_sum_exp, token_tile_.batch(), first, token_tile_.head());
    // exp(logit - infinity): lanes beyond the token tile have no weights and so no gradients.
    for (index_t lane = 0; lane < kWidth; ++lane)
      log_sum_exp_[lane] = lane < count ? log_sum_exp[lane * p_.log_sum_exp.stride[1]]
                                        : static_cast<C>(__builtin_huge_val());
    for (int v = 0; v < 2; ++v) {
      const auto scaling = scale * load<Vector<C>>(length_scale_.at(first) + v * n);
      const auto inverse_norm = load<Vector<C>>(&inverse_norms_[v * n]);
      store(&scaling_[v * n], scaling);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        const auto raw = load<Vector<C>>(&raw_query_[c * kWidth + v * n]);
        store(token_tile_.query(first) + c * token_tile_.query_stride() + v * n,
              (raw * inverse_norm + embedding_[c]) * scaling);
      }
    }
    load_block<C>(token_major(p_.d_out, token_tile_.batch(), token_tile_.head()), first, 0, count,
                  token_tile_.d_out(first), token_tile_.query_stride());
  }

  // For the block's cells: probabilities a_j, gradients D_j of the weights, weights w_j, and the sum of
  // the positional terms t_j times D_j.
  index_t local_weights(index_t first, index_t count) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToCells, cells_.data());
    if (active == 0) return 0;
    d_weights_.zero();
    correlate(sizes_.channels, token_tile_.query(first), token_tile_.query_stride(),
              token_tile_.keys(first), token_tile_.key_stride(), cells_.data(), active, count,
              probabilities_.data());
    correlate(sizes_.channels, token_tile_.d_out(first), token_tile_.query_stride(),
              token_tile_.values(first), token_tile_.key_stride(), cells_.data(), active, count,
              d_weights_.data());
    local_probabilities(first, active);
    if (in_.tokens.present()) {
      multiply<C>(local_, sizes_.channels, kWidth,
                  {&element<const C>(in_.tokens, token_tile_.head(), 0, 0), in_.tokens.stride[2],
                   in_.tokens.stride[1]},
                  {raw_query_.data(), kWidth}, {positional_.data(), kWidth}, false);
    } else {
      positional_.zero();
    }
    const Vector<C> inverse_norms[2] = {load<Vector<C>>(&inverse_norms_[0]),
                                        load<Vector<C>>(&inverse_norms_[n])};
    Vector<C> positional_part[2] = {};
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      const C token_bias =
          in_.token_bias.present() ? element<const C>(in_.token_bias, token_tile_.head(), j) : C(0);
      for (int v = 0; v < 2; ++v) {
        const index_t lane = j * kWidth + v * n;
        const auto valid = [&](Vector<C> x) {
          return select<C>(cells_[i].valid[v], x, Vector<C>{});
        };
        const Vector<C> probability = valid(load<Vector<C>>(&probabilities_[lane]));
        const Vector<C> d_weight = valid(load<Vector<C>>(&d_weights_[lane]));
        const Vector<C> positional =
            valid(load<Vector<C>>(&positional_[lane]) * inverse_norms[v] + token_bias);
        positional_part[v] += positional * d_weight;
        store(&probabilities_[lane], probability);
        store(&d_weights_[lane], d_weight);
        store(token_tile_.weights(first, j) + v * n, probability + positional);
      }
    }
    for (int v = 0; v < 2; ++v) store(&positional_part_[v * n], positional_part[v]);
    return active;
  }

  // Products of queries and keys become probabilities, in masked lanes anything.
  void local_probabilities(index_t first, index_t active) {
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      const C bias =
          in_.local_bias.present() ? element<const C>(in_.local_bias, token_tile_.head(), j) : C(0);
      const C* inverse_norms = token_tile_.key_inverse_norms(first) + cells_[i].shift;
      for (int v = 0; v < 2; ++v) {
        C* at = &probabilities_[j * kWidth + v * n];
        store(at, load<Vector<C>>(at) * load<Vector<C>>(inverse_norms + v * n) + bias);
      }
    }
    const Vector<C> base[2] = {load<Vector<C>>(&log_sum_exp_[0]),
                               load<Vector<C>>(&log_sum_exp_[n])};
    if (active == local_) return weigh(probabilities_.data(), local_, base);
    for (index_t i = 0; i < active; ++i) weigh(&probabilities_[cells_[i].index * kWidth], 1, base);
  }

  void find_delta(index_t first, index_t count, index_t active) {
    bias_.start(token_tile_.head(), first, count);
    Vector<C> delta[2] = {};
    if (exact_delta_) {
      for (index_t i = 0; i < active; ++i)
        add_products(&probabilities_[cells_[i].index * kWidth],
                     &d_weights_[cells_[i].index * kWidth], delta);
      for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
        const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
        pooled_tile(first, count, key, keys);
        for (index_t m = 0; m < keys; ++m)
          add_products(tile(key) + m * kWidth, d_tile(key) + m * kWidth, delta);
      }
    } else {
      load_block<C>(token_major(p_.out, token_tile_.batch(), token_tile_.head()), first, 0, count,
                    d_query_.data(), kWidth);
      for (int v = 0; v < 2 && active > 0; ++v)
        delta[v] = -load<Vector<C>>(&positional_part_[v * n]);
      for (index_t c = 0; c < sizes_.channels; ++c)
        add_products(&d_query_[c * kWidth],
                     token_tile_.d_out(first) + c * token_tile_.query_stride(), delta);
    }
    for (int v = 0; v < 2; ++v) store(&delta_[v * n], delta[v]);
  }

  static void add_products(const C* a, const C* b, Vector<C> (&sum)[2]) {
    for (int v = 0; v < 2; ++v) sum[v] += load<Vector<C>>(a + v * n) * load<Vector<C>>(b + v * n);
  }

  void local_logit_gradients(index_t first, index_t active) {
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      for (int v = 0; v < 2; ++v) {
        const index_t lane = j * kWidth + v * n;
        // Masked, since the probability of 0 outside the image would not hide a NaN.
        const Vector<C> gradient =
            select<C>(cells_[i].valid[v],
                      load<Vector<C>>(&probabilities_[lane]) *
                          (load<Vector<C>>(&d_weights_[lane]) - load<Vector<C>>(&delta_[v * n])),
                      Vector<C>{});
        store(token_tile_.d_logits(first, j) + v * n, gradient);
        store(&scaled_[lane], gradient * load<Vector<C>>(token_tile_.key_inverse_norms(first) +
                                                         cells_[i].shift + v * n));
      }
    }
  }

  // Probabilities of the pooled keys from `key` on and their gradients. All keys of a block are kept
  // where they are needed twice and fit.
  C* tile(index_t key) { return &tiles_[key < kept_keys_ ? key * kWidth : 0]; }
  C* d_tile(index_t key) { return &d_tiles_[key < kept_keys_ ? key * kWidth : 0]; }

  // tile(key) = probabilities a_m, d_tile(key) = their gradients D_m or, where delta is known before,
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
    const Vector<C> log_sum_exp[2] = {load<Vector<C>>(&log_sum_exp_[0]),
                                      load<Vector<C>>(&log_sum_exp_[n])};
    const Vector<C> delta[2] = {load<Vector<C>>(&delta_[0]), load<Vector<C>>(&delta_[n])};
    C* gradients = d_tile(key);
    if (exact_delta_) return weigh(probabilities, keys, log_sum_exp);
    weigh(probabilities, keys, log_sum_exp, [&](index_t at, int v, Vector<C> probability) {
      store(gradients + at, probability * (load<Vector<C>>(gradients + at) - delta[v]));
    });
  }

  // Everything that a query gives to others than its window: d_q, pooled and parameter gradients.
  void owned_block(index_t first, index_t count, index_t active) {
    const index_t width = sizes_.width;
    gather<false>(sizes_.channels, cells_.data(), active, count, scaled_.data(), kWidth,
                  token_tile_.keys(first), token_tile_.key_stride(), static_cast<const C*>(nullptr),
                  d_query_.data(), kWidth);
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
    parameter_gradients(first, count, active);
    prefetch_.advance();
    if (p_.d_q.present()) query_gradient(first, count, active);
  }

  // A block's tokens as rows, channels in the lanes: in place where they are of the compute type and
  // whole half vectors side by side, else copied from their panel.
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
                                 : share_.pool_bias();
  }

  void parameter_gradients(index_t first, index_t count, index_t active) {
    const Vector<C> scaling[2] = {load<Vector<C>>(&scaling_[0]), load<Vector<C>>(&scaling_[n])};
    Vector<C> along_query[2] = {};
    Vector<C> along_embedding[2] = {};
    for (index_t c = 0; c < sizes_.channels; ++c) {
      auto d_embedding = load<Vector<C>>(share_.query_embedding() + c * n);
      for (int v = 0; v < 2; ++v) {
        const auto gradient = load<Vector<C>>(&d_query_[c * kWidth + v * n]);
        d_embedding += gradient * scaling[v];
        along_query[v] += gradient * load<Vector<C>>(&raw_query_[c * kWidth + v * n]);
        along_embedding[v] += gradient * embedding_[c];
      }
      store(share_.query_embedding() + c * n, d_embedding);
    }
    auto d_scale = load<Vector<C>>(share_.scale());
    for (int v = 0; v < 2; ++v) {
      const auto along =
          along_query[v] * load<Vector<C>>(&inverse_norms_[v * n]) + along_embedding[v];
      d_scale += along * load<Vector<C>>(length_scale_.at(first) + v * n);
    }
    store(share_.scale(), d_scale);
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      C* d_local = share_.local_bias() + j * n;
      C* d_token = share_.token_bias() + j * n;
      const C* d_logits = token_tile_.d_logits(first, j);
      const C* d_weights = &d_weights_[j * kWidth];
      store(d_local,
            load<Vector<C>>(d_local) + (load<Vector<C>>(d_logits) + load<Vector<C>>(d_logits + n)));
      store(d_token, load<Vector<C>>(d_token) +
                         (load<Vector<C>>(d_weights) + load<Vector<C>>(d_weights + n)));
    }
    if (p_.d_tokens.present() && active > 0) {
      for (index_t lane = 0; lane < local_ * kWidth; lane += n)
        store(&scaled_[lane],
              load<Vector<C>>(&d_weights_[lane]) * load<Vector<C>>(&inverse_norms_[lane % kWidth]));
      multiply<C, kWidth>(local_, count, sizes_.width, {scaled_.data(), kWidth, 1},
                          token_rows(in_.q, first, raw_query_.data(), kWidth, query_rows_),
                          {share_.tokens(), sizes_.width},
                          LaneRows<const C>{share_.tokens(), sizes_.width});
    }
  }

  // d_query_ becomes d_qn, then d_q.
  void query_gradient(index_t first, index_t count, index_t active) {
    for (int v = 0; v < 2; ++v) {
      const auto scaling = load<Vector<C>>(&scaling_[v * n]);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &d_query_[c * kWidth + v * n];
        store(at, load<Vector<C>>(at) * scaling);
      }
    }
    if (in_.tokens.present() && active > 0) {
      multiply<C>(sizes_.channels, local_, kWidth,
                  {&element<const C>(in_.tokens, token_tile_.head(), 0, 0), in_.tokens.stride[1],
                   in_.tokens.stride[2]},
                  {d_weights_.data(), kWidth}, {d_query_.data(), kWidth}, true);
    }
    normalisation_gradient(sizes_.channels, raw_query_.data(), kWidth, inverse_norms_.data(),
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
  index_t local_;  // L
  bool exact_delta_;
  index_t kept_keys_;           // whose a_m and D_m are kept for a block of queries
  Scratch<C> query_rows_;       // [block][d] qh, then q
  Scratch<C> d_out_rows_;       // [block][d]
  Scratch<C> raw_query_;        // [d][block] q
  Scratch<C> d_query_;          // [d][block] d_qh, d_qn, d_q in turn
  Scratch<C> embedding_;        // [d]
  Scratch<C> probabilities_;    // [L][block] a_j
  Scratch<C> d_weights_;        // [L][block] D_j
  Scratch<C> positional_;       // [L][block] q . tokens_j, q not normalised
  Scratch<C> positional_part_;  // [block] sum of t_j D_j
  Scratch<C> scaled_;           // [L][block] d_l_j over the key's norm, then D_j over the query's
  Scratch<Cell<C>> cells_;      // [L]
  Scratch<C> tiles_;            // [kept keys][block] a_m
  Scratch<C> d_tiles_;          // [kept keys][block] D_m, then d_p_m
  Scratch<C> scaling_;          // [block] scale s(n)
  Scratch<C> inverse_norms_;    // [block]
  Scratch<C> log_sum_exp_;      // [block]
  Scratch<C> delta_;            // [block]
  BlockBias<C> bias_;
  TokenPrefetch prefetch_;
  ParameterPartialSums<C> share_{};
  C* d_pool_keys_ = nullptr;
  C* d_pool_values_ = nullptr;
};

TRANSNEXT_END_LEVEL
