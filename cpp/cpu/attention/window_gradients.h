// The window of a block of queries in the backward of aggregated attention: probabilities and
// weights of its cells, their gradients, and what they add to the gradients of queries and parameters.
#pragma once

#include "cpu/attention/query_block.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
class WindowGradients {
 public:
  WindowGradients(const AggregatedAttentionBackwardParams& p, const AttentionSizes<C>& sizes,
                  AttentionTokenTile<C>& token_tile, const BackwardQueryBlock<C>& block)
      : p_(p),
        in_(p.in),
        sizes_(sizes),
        token_tile_(token_tile),
        block_(block),
        local_(sizes.window.cells()),
        probabilities_(local_ * kBlock<C>),
        d_weights_(local_ * kBlock<C>),
        positional_(local_ * kBlock<C>),
        positional_part_(kBlock<C>),
        scaled_(local_ * kBlock<C>),
        cells_(local_) {}

  // Computes probabilities a_j, gradients D_j of the weights, weights w_j, and the sum of the
  // positional terms t_j times D_j, for the loaded queries first .. first + count - 1.
  void find_weights(index_t first, index_t count) {
    first_ = first;
    count_ = count;
    active_ = active_cells(sizes_.window, first, count, Direction::kToCells, cells_.data());
    if (active_ == 0) return;
    d_weights_.zero();
    correlate(sizes_.channels, token_tile_.query(first), token_tile_.query_stride(),
              token_tile_.keys(first), token_tile_.key_stride(), cells_.data(), active_, count,
              probabilities_.data());
    correlate(sizes_.channels, token_tile_.d_out(first), token_tile_.query_stride(),
              token_tile_.values(first), token_tile_.key_stride(), cells_.data(), active_, count,
              d_weights_.data());
    find_probabilities();
    if (in_.tokens.present()) {
      multiply<C>(local_, sizes_.channels, kWidth,
                  {&element<const C>(in_.tokens, token_tile_.head(), 0, 0), in_.tokens.stride[2],
                   in_.tokens.stride[1]},
                  {block_.raw(), kWidth}, {positional_.data(), kWidth}, false);
    } else {
      positional_.zero();
    }
    const Vector<C> inverse_norms[2] = {load<Vector<C>>(block_.inverse_norms()),
                                        load<Vector<C>>(block_.inverse_norms() + n)};
    Vector<C> positional_part[2] = {};
    for (index_t i = 0; i < active_; ++i) {
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
  }

  // delta += sum_j a_j D_j.
  void add_delta(Vector<C> (&delta)[2]) const {
    for (index_t i = 0; i < active_; ++i) {
      const index_t j = cells_[i].index * kWidth;
      add_products<C>(&probabilities_[j], &d_weights_[j], delta);
    }
  }

  // delta = -sum_j t_j D_j, left alone without cells.
  void start_delta(Vector<C> (&delta)[2]) const {
    for (int v = 0; v < 2 && active_ > 0; ++v)
      delta[v] = -load<Vector<C>>(&positional_part_[v * n]);
  }

  // The gradients d_l_j of the logits, into the token tile.
  void find_logit_gradients(const C* delta) {
    for (index_t i = 0; i < active_; ++i) {
      const index_t j = cells_[i].index;
      for (int v = 0; v < 2; ++v) {
        const index_t lane = j * kWidth + v * n;
        // Masked, since the probability of 0 outside the image would not hide a NaN.
        const Vector<C> gradient =
            select<C>(cells_[i].valid[v],
                      load<Vector<C>>(&probabilities_[lane]) *
                          (load<Vector<C>>(&d_weights_[lane]) - load<Vector<C>>(delta + v * n)),
                      Vector<C>{});
        store(token_tile_.d_logits(first_, j) + v * n, gradient);
        store(&scaled_[lane], gradient * load<Vector<C>>(token_tile_.key_inverse_norms(first_) +
                                                         cells_[i].shift + v * n));
      }
    }
  }

  // d_query = sum_j d_l_j kn(n + offset_j), [d][block].
  void gather_keys(C* d_query) const {
    gather<false>(sizes_.channels, cells_.data(), active_, count_, scaled_.data(), kWidth,
                  token_tile_.keys(first_), token_tile_.key_stride(),
                  static_cast<const C*>(nullptr), d_query, kWidth);
  }

  // d_query += sum_j D_j tokens_j, [d][block].
  void add_tokens(C* d_query) const {
    if (!in_.tokens.present() || active_ == 0) return;
    multiply<C>(sizes_.channels, local_, kWidth,
                {&element<const C>(in_.tokens, token_tile_.head(), 0, 0), in_.tokens.stride[1],
                 in_.tokens.stride[2]},
                {d_weights_.data(), kWidth}, {d_query, kWidth}, true);
  }

  bool has_token_gradient() const { return p_.d_tokens.present() && active_ > 0; }

  // Adds to the partial sums of the local and the token bias.
  void add_bias_gradients(const ParameterPartialSums<C>& sums) const {
    for (index_t i = 0; i < active_; ++i) {
      const index_t j = cells_[i].index;
      C* d_local = sums.local_bias() + j * n;
      C* d_token = sums.token_bias() + j * n;
      const C* d_logits = token_tile_.d_logits(first_, j);
      const C* d_weights = &d_weights_[j * kWidth];
      store(d_local,
            load<Vector<C>>(d_local) + (load<Vector<C>>(d_logits) + load<Vector<C>>(d_logits + n)));
      store(d_token, load<Vector<C>>(d_token) +
                         (load<Vector<C>>(d_weights) + load<Vector<C>>(d_weights + n)));
    }
  }

  // Adds to the partial sums of the tokens. queries: the block as rows. Overwrites what gather_keys
  // reads.
  void add_token_gradients(const ParameterPartialSums<C>& sums, const LaneRows<const C>& queries) {
    for (index_t lane = 0; lane < local_ * kWidth; lane += n)
      store(&scaled_[lane], load<Vector<C>>(&d_weights_[lane]) *
                                load<Vector<C>>(block_.inverse_norms() + lane % kWidth));
    multiply<C, kWidth>(local_, count_, sizes_.width, {scaled_.data(), kWidth, 1}, queries,
                        {sums.tokens(), sizes_.width},
                        LaneRows<const C>{sums.tokens(), sizes_.width});
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;

  // Turns q k of the block's cells into probabilities; masked lanes hold anything.
  void find_probabilities() {
    for (index_t i = 0; i < active_; ++i) {
      const index_t j = cells_[i].index;
      const C bias =
          in_.local_bias.present() ? element<const C>(in_.local_bias, token_tile_.head(), j) : C(0);
      const C* inverse_norms = token_tile_.key_inverse_norms(first_) + cells_[i].shift;
      for (int v = 0; v < 2; ++v) {
        C* at = &probabilities_[j * kWidth + v * n];
        store(at, load<Vector<C>>(at) * load<Vector<C>>(inverse_norms + v * n) + bias);
      }
    }
    const Vector<C> base[2] = {load<Vector<C>>(block_.log_sum_exp()),
                               load<Vector<C>>(block_.log_sum_exp() + n)};
    if (active_ == local_) return weigh(probabilities_.data(), local_, base);
    for (index_t i = 0; i < active_; ++i) weigh(&probabilities_[cells_[i].index * kWidth], 1, base);
  }

  const AggregatedAttentionBackwardParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionSizes<C>& sizes_;
  AttentionTokenTile<C>& token_tile_;
  const BackwardQueryBlock<C>& block_;
  index_t local_;               // L
  Scratch<C> probabilities_;    // [L][block] a_j
  Scratch<C> d_weights_;        // [L][block] D_j
  Scratch<C> positional_;       // [L][block] q . tokens_j, q not normalised
  Scratch<C> positional_part_;  // [block] sum of t_j D_j
  Scratch<C> scaled_;           // [L][block] d_l_j over the key's norm, then D_j over the query's
  Scratch<Cell<C>> cells_;      // [L]
  index_t first_ = 0;           // of the block's queries
  index_t count_ = 0;
  index_t active_ = 0;  // cells that any of the block's queries has inside the image
};

TRANSNEXT_END_LEVEL
