// A block of queries in the backward of aggregated attention, loaded with tokens in the lanes.
#pragma once

#include "cpu/attention/token_tile.h"

TRANSNEXT_BEGIN_LEVEL

// sum += a b, of the two vectors of a block.
template <class C>
inline void add_products(const C* a, const C* b, Vector<C> (&sum)[2]) {
  for (int v = 0; v < 2; ++v)
    sum[v] += load<Vector<C>>(a + v * kLanes<C>) * load<Vector<C>>(b + v * kLanes<C>);
}

template <class C>
class BackwardQueryBlock {
 public:
  BackwardQueryBlock(const AggregatedAttentionBackwardParams& p, const AttentionSizes<C>& sizes,
                     const LengthScale<C>& length_scale, AttentionTokenTile<C>& token_tile)
      : p_(p),
        sizes_(sizes),
        length_scale_(length_scale),
        token_tile_(token_tile),
        raw_(kBlock<C> * sizes.channels),
        embedding_(sizes.channels),
        scaling_(kBlock<C>),
        inverse_norms_(kBlock<C>),
        log_sum_exp_(kBlock<C>) {}

  // Call when the token tile has moved.
  void start() { load_embedding(p_.in, token_tile_.head(), embedding_); }

  // Loads queries first .. first + count - 1, and stores their qh and d_out in the token tile.
  void load_queries(index_t first, index_t count) {
    load_block<C>(token_major(p_.in.q, token_tile_.batch(), token_tile_.head()), first, 0, count,
                  raw_.data(), kBlock<C>);
    find_inverse_norms(sizes_.channels, raw_.data(), kBlock<C>, inverse_norms_.data());
    const C scale = element<const C>(p_.in.scale, token_tile_.head());
    const C* log_sum_exp =
        &element<const C>(p_.log_sum_exp, token_tile_.batch(), first, token_tile_.head());
    // exp(logit - infinity): lanes beyond the token tile have no weights and so no gradients.
    for (index_t lane = 0; lane < kBlock<C>; ++lane)
      log_sum_exp_[lane] = lane < count ? log_sum_exp[lane * p_.log_sum_exp.stride[1]]
                                        : static_cast<C>(__builtin_huge_val());
    for (int v = 0; v < 2; ++v) {
      const auto scaling = scale * load<Vector<C>>(length_scale_.at(first) + v * n);
      const auto inverse_norm = load<Vector<C>>(&inverse_norms_[v * n]);
      store(&scaling_[v * n], scaling);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        const auto raw = load<Vector<C>>(&raw_[c * kBlock<C> + v * n]);
        store(token_tile_.query(first) + c * token_tile_.query_stride() + v * n,
              (raw * inverse_norm + embedding_[c]) * scaling);
      }
    }
    load_block<C>(token_major(p_.d_out, token_tile_.batch(), token_tile_.head()), first, 0, count,
                  token_tile_.d_out(first), token_tile_.query_stride());
  }

  const C* raw() const { return raw_.data(); }              // [d][block] q
  const C* embedding() const { return embedding_.data(); }  // [d]
  const C* scaling() const { return scaling_.data(); }      // [block] scale s(n)
  const C* inverse_norms() const { return inverse_norms_.data(); }
  const C* log_sum_exp() const { return log_sum_exp_.data(); }

 private:
  static constexpr int n = kLanes<C>;

  const AggregatedAttentionBackwardParams& p_;
  const AttentionSizes<C>& sizes_;
  const LengthScale<C>& length_scale_;
  AttentionTokenTile<C>& token_tile_;
  Scratch<C> raw_;
  Scratch<C> embedding_;
  Scratch<C> scaling_;
  Scratch<C> inverse_norms_;
  Scratch<C> log_sum_exp_;
};

TRANSNEXT_END_LEVEL
