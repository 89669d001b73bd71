// aggregated_attention on the CPU, backward. With the forward's formulas, the gradients of the
// weights w_j and a_m, D_j = d_out . v(n + offset_j) and D_m = d_out . vp(m), and the positional
// term t_j = qn . tokens_j + token_bias_j:
//
//   delta    = sum over all keys of a D = d_out . out - sum_j t_j D_j
//   d_l, d_p = a (D - delta), the gradients of the local and pooled logits, with the probabilities
//              a = exp(logit - log_sum_exp) computed again
//   d_qh     = sum_j d_l_j kn(n + offset_j) + sum_m d_p_m kpn(m)
//   d_qn     = d_qh scale s(n) + sum_j D_j tokens_j, and d_q through the normalisation
//   d_kn(n') = sum_j d_l_j(n' - offset_j) qh(n' - offset_j)
//   d_v(n')  = sum_j w_j(n' - offset_j) d_out(n' - offset_j)
//   d_kpn(m) = sum_n d_p_m(n) qh(n)
//   d_vp(m)  = sum_n a_m(n) d_out(n)
//   d_scale  = sum d_qh . (qn + query_embedding) s,   d_query_embedding = sum d_qh scale s
//   d_tokens_j = sum D_j qn,   d_token_bias_j = sum D_j,   d_local_bias_j = sum d_l_j
//   d_pool_bias = d_p
//
// A task owns a stretch of tokens as queries and as keys. It computes d_l and w for its queries and
// for those within a window's reach on both sides (they look at its keys), so that d_k and d_v are
// sums with one owner. Pooled and parameter gradients are sums over all queries: partial sums per
// part of them, added in the parts' order. So there are no atomics, and results depend on the number of
// threads only, through the number of tasks.
//
// With 16-bit storage `out` is rounded, and d_out . out would carry that error into every d_l and
// d_p; delta is then summed over the keys, which needs the pooled probabilities once more.
//
// Per query and head about 2.5 times the forward's flops: five products of 2 d (L + P) for two.
#include "cpu/attention_gradients.h"
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/thread_pool.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

using Params = AggregatedAttentionBackwardParams;
using Plan = AttentionGradientPlan;

template <class C>
class BackwardTask {
 public:
  BackwardTask(const Params& p, const AttentionSizes<C>& sizes, const PooledTokens<C>& pooled,
               const LengthScale<C>& length_scale, const BiasTable<C>& bias_table, const Plan& plan)
      : p_(p),
        in_(p.in),
        sizes_(sizes),
        pooled_(pooled),
        length_scale_(length_scale),
        local_(sizes.window.cells()),
        halo_(local_ > 0 ? sizes.window.halo() : 0),
        key_gradients_(p.d_k.present() || p.d_v.present()),
        query_halo_(key_gradients_ ? halo_ : 0),
        exact_delta_(element_size(in_.q.dtype) == 2),
        query_stride_(round_up(plan.stretch + 2 * query_halo_, kBlock<C>) + kBlock<C>),
        key_stride_(local_ > 0 ? query_stride_ + round_up(2 * halo_, kBlock<C>) + kBlock<C> : 0),
        kept_keys_(exact_delta_ && sizes.pooled <= kKeptKeys ? sizes.pooled : kKeyTile),
        keys_(key_stride_ * sizes.channels),
        values_(key_stride_ * sizes.channels),
        inverse_norms_(key_stride_),
        query_(query_stride_ * sizes.channels),
        d_out_(query_stride_ * sizes.channels),
        d_logits_(query_stride_ * local_),
        weights_(query_stride_ * local_),
        query_rows_(kBlock<C> * sizes.width + kLanes<C>),
        unit_rows_(kBlock<C> * sizes.width + kLanes<C>),
        d_out_rows_(kBlock<C> * sizes.width + kLanes<C>),
        unit_query_(kBlock<C> * sizes.channels),
        d_query_(kBlock<C> * sizes.channels),
        embedding_(sizes.channels),
        probabilities_(local_ * kBlock<C>),
        d_weights_(local_ * kBlock<C>),
        positional_(local_ * kBlock<C>),
        cells_(local_),
        tiles_(kept_keys_ * kBlock<C>),
        d_tiles_(kept_keys_ * kBlock<C>),
        scaling_(kBlock<C>),
        query_norms_(kBlock<C>),
        log_sum_exp_(kBlock<C>),
        delta_(kBlock<C>),
        bias_(bias_table, in_.grid, in_.pool_grid, p.d_pool_bias.present()) {
    // The padding of rows is never written otherwise.
    for (Scratch<C>* rows : {&query_rows_, &unit_rows_, &d_out_rows_}) rows->zero();
  }

  // Adds to the pooled gradients ([P][d] each, of the normalised keys), and to the task's other
  // shares.
  void run(index_t batch, index_t head, index_t first, index_t count,
           const ParameterShare<C>& share, C* d_pool_keys, C* d_pool_values) {
    batch_ = batch;
    head_ = head;
    share_ = share;
    d_pool_keys_ = d_pool_keys;
    d_pool_values_ = d_pool_values;
    query_first_ = first - query_halo_;
    key_first_ = query_first_ - halo_;
    if (local_ > 0) {
      const index_t length = round_up(count + 2 * (query_halo_ + halo_), kWidth);
      load_panel<C>(token_major(in_.k, batch, head), sizes_.tokens,
                    {keys_.data(), key_stride_, key_first_}, length, inverse_norms_.data());
      load_panel<C>(token_major(in_.v, batch, head), sizes_.tokens,
                    {values_.data(), key_stride_, key_first_}, length);
    }
    for (index_t c = 0; c < sizes_.channels; ++c)
      embedding_[c] =
          in_.query_embedding.present() ? element<const C>(in_.query_embedding, head_, c) : C(0);
    if (query_halo_ > 0) {
      query_blocks(larger(query_first_, 0), first, false);
      query_blocks(first + count, smaller(first + count + query_halo_, sizes_.tokens), false);
    }
    query_blocks(first, first + count, true);
    if (key_gradients_) {
      for (index_t i = first; i < first + count; i += kWidth)
        key_block(i, smaller(kWidth, first + count - i));
    }
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;
  static constexpr index_t kKeptKeys = 1024;  // 128 KiB of floats each for a_m and D_m

  void query_blocks(index_t begin, index_t end, bool owned) {
    for (index_t first = begin; first < end; first += kWidth) {
      const index_t count = smaller(kWidth, end - first);
      load_queries(first, count);
      const index_t active = local_weights(first, count);
      find_delta(first, count, active);
      local_logit_gradients(first, active);
      if (owned) owned_block(first, count, active);
    }
  }

  C* query_at(index_t first) { return query_.data() + (first - query_first_); }
  C* d_out_at(index_t first) { return d_out_.data() + (first - query_first_); }
  C* d_logits_at(index_t first, index_t j) {
    return &d_logits_[j * query_stride_ + (first - query_first_)];
  }
  C* weights_at(index_t first, index_t j) {
    return &weights_[j * query_stride_ + (first - query_first_)];
  }

  void load_queries(index_t first, index_t count) {
    load_block<C>(token_major(in_.q, batch_, head_), first, 0, count, unit_query_.data(), kWidth);
    normalise_block(sizes_.channels, unit_query_.data(), kWidth, query_norms_.data());
    const C scale = element<const C>(in_.scale, head_);
    const C* log_sum_exp = &element<const C>(p_.log_sum_exp, batch_, first, head_);
    // exp(logit - infinity): lanes beyond the stretch have no weights and so no gradients.
    for (index_t lane = 0; lane < kWidth; ++lane)
      log_sum_exp_[lane] = lane < count ? log_sum_exp[lane * p_.log_sum_exp.stride[1]]
                                        : static_cast<C>(__builtin_huge_val());
    for (int v = 0; v < 2; ++v) {
      const auto scaling = scale * load<Vector<C>>(length_scale_.at(first) + v * n);
      store(&scaling_[v * n], scaling);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        const auto unit = load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
        store(query_at(first) + c * query_stride_ + v * n, (unit + embedding_[c]) * scaling);
      }
    }
    load_block<C>(token_major(p_.d_out, batch_, head_), first, 0, count, d_out_at(first),
                  query_stride_);
  }

  // For the block's cells: probabilities a_j, gradients D_j of the weights, positional terms t_j
  // and weights w_j.
  index_t local_weights(index_t first, index_t count) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToCells, cells_.data());
    if (active == 0) return 0;
    d_weights_.zero();
    const index_t at = first - key_first_;
    correlate(sizes_.channels, query_at(first), query_stride_, keys_.data() + at, key_stride_,
              cells_.data(), active, probabilities_.data());
    correlate(sizes_.channels, d_out_at(first), query_stride_, values_.data() + at, key_stride_,
              cells_.data(), active, d_weights_.data());
    if (in_.tokens.present()) {
      multiply<C>(
          local_, sizes_.channels, kWidth,
          {&element<const C>(in_.tokens, head_, 0, 0), in_.tokens.stride[2], in_.tokens.stride[1]},
          {unit_query_.data(), kWidth}, {positional_.data(), kWidth}, false);
    } else {
      positional_.zero();
    }
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      const C local_bias =
          in_.local_bias.present() ? element<const C>(in_.local_bias, head_, j) : C(0);
      const C token_bias =
          in_.token_bias.present() ? element<const C>(in_.token_bias, head_, j) : C(0);
      for (int v = 0; v < 2; ++v) {
        const index_t lane = j * kWidth + v * n;
        const Mask<C> valid = cells_[i].valid[v];
        const auto logit = load<Vector<C>>(&probabilities_[lane]) + local_bias;
        const auto probability =
            masked<C>(exp<C>(logit - load<Vector<C>>(&log_sum_exp_[v * n])), valid);
        const auto positional = load<Vector<C>>(&positional_[lane]) + token_bias;
        store(&probabilities_[lane], probability);
        store(&positional_[lane], positional);
        store(&d_weights_[lane], masked<C>(load<Vector<C>>(&d_weights_[lane]), valid));
        store(weights_at(first, j) + v * n, masked<C>(probability + positional, valid));
      }
    }
    return active;
  }

  void find_delta(index_t first, index_t count, index_t active) {
    bias_.start(head_, first, count);
    Vector<C> delta[2] = {};
    if (exact_delta_) {
      for (index_t i = 0; i < active; ++i)
        add_products(&probabilities_[cells_[i].index * kWidth],
                     &d_weights_[cells_[i].index * kWidth], delta);
      for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
        const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
        pooled_tile(first, key, keys);
        for (index_t m = 0; m < keys; ++m)
          add_products(tile(key) + m * kWidth, d_tile(key) + m * kWidth, delta);
      }
    } else {
      load_block<C>(token_major(p_.out, batch_, head_), first, 0, count, d_query_.data(), kWidth);
      for (index_t i = 0; i < active; ++i)
        add_products(&positional_[cells_[i].index * kWidth], &d_weights_[cells_[i].index * kWidth],
                     delta);
      for (int v = 0; v < 2; ++v) delta[v] = -delta[v];
      for (index_t c = 0; c < sizes_.channels; ++c)
        add_products(&d_query_[c * kWidth], d_out_at(first) + c * query_stride_, delta);
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
        const Vector<C> gradient =
            load<Vector<C>>(&probabilities_[lane]) *
            (load<Vector<C>>(&d_weights_[lane]) - load<Vector<C>>(&delta_[v * n]));
        store(d_logits_at(first, j) + v * n, gradient);
      }
    }
  }

  // Probabilities of the pooled keys from `key` on and their gradients. All keys of a block are kept
  // where they are needed twice and fit.
  C* tile(index_t key) { return &tiles_[key < kept_keys_ ? key * kWidth : 0]; }
  C* d_tile(index_t key) { return &d_tiles_[key < kept_keys_ ? key * kWidth : 0]; }

  // tile(key) = probabilities a_m, d_tile(key) = their gradients D_m.
  void pooled_tile(index_t first, index_t key, index_t keys) {
    C* probabilities = tile(key);
    if (bias_.present()) bias_.fill(probabilities, key, keys);
    multiply<C, 1>(keys, sizes_.channels, kWidth, {pooled_.keys(batch_, head_, key), 1, kKeyTile},
                   {query_at(first), query_stride_}, {probabilities, kWidth},
                   LaneRows<const C>{bias_.present() ? probabilities : nullptr, kWidth});
    multiply<C, 1>(keys, sizes_.channels, kWidth, {pooled_.values(batch_, head_, key), 1, kKeyTile},
                   {d_out_at(first), query_stride_}, {d_tile(key), kWidth},
                   LaneRows<const C>{nullptr, 0});
    const Vector<C> log_sum_exp[2] = {load<Vector<C>>(&log_sum_exp_[0]),
                                      load<Vector<C>>(&log_sum_exp_[n])};
    for (index_t m = 0; m < keys; ++m) {
      for (int v = 0; v < 2; ++v) {
        C* logit = probabilities + m * kWidth + v * n;
        store(logit, exp_bounded<C>(load<Vector<C>>(logit) - log_sum_exp[v]));
      }
    }
  }

  // Everything that a query gives to others than its window: d_q, pooled and parameter gradients.
  void owned_block(index_t first, index_t count, index_t active) {
    const index_t width = sizes_.width;
    gather<false>(sizes_.channels, cells_.data(), active, d_logits_at(first, 0), query_stride_,
                  keys_.data() + (first - key_first_), key_stride_, static_cast<const C*>(nullptr),
                  d_query_.data(), kWidth);
    if (d_pool_keys_ != nullptr)
      store_block<C>(row_tokens(query_rows_.data(), width, sizes_.channels), 0, kWidth,
                     query_at(first), query_stride_);
    if (d_pool_values_ != nullptr)
      store_block<C>(row_tokens(d_out_rows_.data(), width, sizes_.channels), 0, kWidth,
                     d_out_at(first), query_stride_);
    const Vector<C> delta[2] = {load<Vector<C>>(&delta_[0]), load<Vector<C>>(&delta_[n])};
    for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
      const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
      if (!exact_delta_ || kept_keys_ < sizes_.pooled) pooled_tile(first, key, keys);
      if (d_pool_values_ != nullptr) {
        multiply<C, kWidth>(keys, kWidth, width, {tile(key), kWidth, 1},
                            {d_out_rows_.data(), width}, {d_pool_values_ + key * width, width},
                            LaneRows<const C>{d_pool_values_ + key * width, width});
      }
      C* gradients = d_tile(key);
      for (index_t m = 0; m < keys; ++m) {
        for (int v = 0; v < 2; ++v) {
          const index_t at = m * kWidth + v * n;
          store(gradients + at,
                load<Vector<C>>(tile(key) + at) * (load<Vector<C>>(gradients + at) - delta[v]));
        }
      }
      multiply<C, kKeyTile>(sizes_.channels, keys, kWidth,
                            {pooled_.keys(batch_, head_, key), kKeyTile, 1}, {gradients, kWidth},
                            {d_query_.data(), kWidth}, LaneRows<const C>{d_query_.data(), kWidth});
      if (d_pool_keys_ != nullptr) {
        multiply<C, kWidth>(keys, kWidth, width, {gradients, kWidth, 1},
                            {query_rows_.data(), width}, {d_pool_keys_ + key * width, width},
                            LaneRows<const C>{d_pool_keys_ + key * width, width});
      }
      if (p_.d_pool_bias.present()) bias_.add_gradient(gradients, key, keys, d_pool_bias());
    }
    parameter_gradients(first, active);
    if (p_.d_q.present()) query_gradient(first, count, active);
  }

  C* d_pool_bias() {
    return in_.pool_bias.dense() ? &element<C>(p_.d_pool_bias, head_, 0, 0) : share_.pool_bias();
  }

  void parameter_gradients(index_t first, index_t active) {
    const Vector<C> scaling[2] = {load<Vector<C>>(&scaling_[0]), load<Vector<C>>(&scaling_[n])};
    Vector<C> along[2] = {};
    for (index_t c = 0; c < sizes_.channels; ++c) {
      auto d_embedding = load<Vector<C>>(share_.query_embedding() + c * n);
      for (int v = 0; v < 2; ++v) {
        const auto gradient = load<Vector<C>>(&d_query_[c * kWidth + v * n]);
        const auto unit = load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
        d_embedding += gradient * scaling[v];
        along[v] += gradient * (unit + embedding_[c]);
      }
      store(share_.query_embedding() + c * n, d_embedding);
    }
    const C* lengths = length_scale_.at(first);
    store(share_.scale(), load<Vector<C>>(share_.scale()) + along[0] * load<Vector<C>>(lengths) +
                              along[1] * load<Vector<C>>(lengths + n));
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      for (int v = 0; v < 2; ++v) {
        C* d_local = share_.local_bias() + j * n;
        C* d_token = share_.token_bias() + j * n;
        store(d_local, load<Vector<C>>(d_local) + load<Vector<C>>(d_logits_at(first, j) + v * n));
        store(d_token, load<Vector<C>>(d_token) + load<Vector<C>>(&d_weights_[j * kWidth + v * n]));
      }
    }
    if (p_.d_tokens.present() && active > 0) {
      store_block<C>(row_tokens(unit_rows_.data(), sizes_.width, sizes_.channels), 0, kWidth,
                     unit_query_.data(), kWidth);
      multiply<C, kWidth>(local_, kWidth, sizes_.width, {d_weights_.data(), kWidth, 1},
                          {unit_rows_.data(), sizes_.width}, {share_.tokens(), sizes_.width},
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
      multiply<C>(
          sizes_.channels, local_, kWidth,
          {&element<const C>(in_.tokens, head_, 0, 0), in_.tokens.stride[1], in_.tokens.stride[2]},
          {d_weights_.data(), kWidth}, {d_query_.data(), kWidth}, true);
    }
    normalisation_gradient(sizes_.channels, unit_query_.data(), kWidth, query_norms_.data(),
                           d_query_.data());
    store_block<C>(token_major(p_.d_q, batch_, head_), first, count, d_query_.data(), kWidth);
  }

  // d_k and d_v of the task's own tokens, from the queries that look at them.
  void key_block(index_t first, index_t count) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToQueries, cells_.data());
    C* gradient = d_query_.data();
    const C* nothing = nullptr;
    if (p_.d_v.present()) {
      gather<true>(sizes_.channels, cells_.data(), active, weights_at(first, 0), query_stride_,
                   d_out_at(first), query_stride_, nothing, gradient, kWidth);
      store_block<C>(token_major(p_.d_v, batch_, head_), first, count, gradient, kWidth);
    }
    if (!p_.d_k.present()) return;
    gather<true>(sizes_.channels, cells_.data(), active, d_logits_at(first, 0), query_stride_,
                 query_at(first), query_stride_, nothing, gradient, kWidth);
    const index_t at = first - key_first_;
    normalisation_gradient(sizes_.channels, keys_.data() + at, key_stride_, &inverse_norms_[at],
                           gradient);
    store_block<C>(token_major(p_.d_k, batch_, head_), first, count, gradient, kWidth);
  }

  const Params& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionSizes<C>& sizes_;
  const PooledTokens<C>& pooled_;
  const LengthScale<C>& length_scale_;
  index_t local_;  // L
  index_t halo_;   // a window's reach, in tokens
  bool key_gradients_;
  index_t query_halo_;  // queries before and after the task's own
  bool exact_delta_;
  index_t query_stride_;      // tokens in the panels of queries
  index_t key_stride_;        // tokens in the panels of keys
  index_t kept_keys_;         // whose a_m and D_m are kept for a block of queries
  Scratch<C> keys_;           // [d][key_stride] normalised
  Scratch<C> values_;         // [d][key_stride]
  Scratch<C> inverse_norms_;  // [key_stride]
  Scratch<C> query_;          // [d][query_stride] qh
  Scratch<C> d_out_;          // [d][query_stride]
  Scratch<C> d_logits_;       // [L][query_stride]
  Scratch<C> weights_;        // [L][query_stride] w_j
  Scratch<C> query_rows_;     // [block][d] qh
  Scratch<C> unit_rows_;      // [block][d] qn
  Scratch<C> d_out_rows_;     // [block][d]
  Scratch<C> unit_query_;     // [d][block] qn
  Scratch<C> d_query_;        // [d][block] d_qh, d_qn, d_q in turn; d_v and d_k of a block
  Scratch<C> embedding_;      // [d]
  Scratch<C> probabilities_;  // [L][block] a_j
  Scratch<C> d_weights_;      // [L][block] D_j
  Scratch<C> positional_;     // [L][block] t_j
  Scratch<Cell<C>> cells_;    // [L]
  Scratch<C> tiles_;          // [kept keys][block] a_m
  Scratch<C> d_tiles_;        // [kept keys][block] D_m, then d_p_m
  Scratch<C> scaling_;        // [block] scale s(n)
  Scratch<C> query_norms_;    // [block] inverse norms
  Scratch<C> log_sum_exp_;    // [block]
  Scratch<C> delta_;          // [block]
  BlockBias<C> bias_;
  index_t batch_ = 0;
  index_t head_ = 0;
  index_t query_first_ = 0;  // first token of the panels of queries; negative at an image's start
  index_t key_first_ = 0;
  ParameterShare<C> share_{};
  C* d_pool_keys_ = nullptr;
  C* d_pool_values_ = nullptr;
};

template <class C>
void clear(C* values, index_t count) {
  __builtin_memset(values, 0, static_cast<unsigned long>(count) * sizeof(C));
}

template <class C>
void backward(const Params& p, int threads) {
  const AttentionSizes<C> sizes(p.in);
  const PooledTokens<C> pooled(p.in, sizes, threads);
  const LengthScale<C> length_scale(sizes);
  const BiasTable<C> bias_table(p.in, threads);
  const bool table_gradient = p.d_pool_bias.present() && p.in.pool_bias.table();
  const index_t table = table_gradient ? bias_table.rows() * bias_table.stride() : 0;
  const Plan plan = Plan::make<C>(p, sizes, table, threads);

  ParameterShare<C> share{sizes.width, sizes.window.cells(), table, nullptr};
  Scratch<C> shares(sizes.heads * plan.parts() * share.size());
  share.data = shares.data();
  const index_t pooled_size = 2 * sizes.pooled * sizes.width;  // keys, then values
  // With room for a vector that reaches over the last row.
  Scratch<C> pooled_partials(sizes.batches * sizes.heads * plan.token_parts * pooled_size +
                             kLanes<C>);
  if (p.d_pool_bias.present() && p.in.pool_bias.dense()) {
    for (index_t head = 0; head < sizes.heads; ++head)
      clear(&element<C>(p.d_pool_bias, head, 0, 0), sizes.tokens * sizes.pooled);
  }

  parallel_for(plan.parts() * plan.head_parts, threads, [&](index_t task) {
    const index_t part = task / plan.head_parts;
    const index_t head_part = task % plan.head_parts;
    const index_t image_part = part / plan.token_parts;
    const index_t token_part = part % plan.token_parts;
    const index_t first_head = sizes.heads * head_part / plan.head_parts;
    const index_t end_head = sizes.heads * (head_part + 1) / plan.head_parts;
    const auto share_of = [&](index_t head) {
      ParameterShare<C> own = share;
      own.data += (head * plan.parts() + part) * share.size();
      return own;
    };
    const auto partial_of = [&](index_t batch, index_t head) {
      const index_t pair = batch * sizes.heads + head;
      return &pooled_partials[(pair * plan.token_parts + token_part) * pooled_size];
    };
    for (index_t head = first_head; head < end_head; ++head)
      clear(share_of(head).data, share.size());
    BackwardTask<C> runner(p, sizes, pooled, length_scale, bias_table, plan);
    for (index_t batch = sizes.batches * image_part / plan.image_parts;
         batch < sizes.batches * (image_part + 1) / plan.image_parts; ++batch) {
      for (index_t head = first_head; head < end_head; ++head)
        clear(partial_of(batch, head), pooled_size);
      for (index_t i = plan.stretches * token_part / plan.token_parts;
           i < plan.stretches * (token_part + 1) / plan.token_parts; ++i) {
        const index_t first = i * plan.stretch;
        const index_t end = smaller(first + plan.stretch, sizes.tokens);
        for (const View<4>* tensor : {&p.in.q, &p.in.k, &p.in.v, &p.d_out, &p.out})
          stream_tokens(*tensor, batch, first_head, end_head - first_head, first, end);
        for (index_t head = first_head; head < end_head; ++head) {
          C* partial = partial_of(batch, head);
          runner.run(batch, head, first, end - first, share_of(head),
                     p.d_k_pool.present() ? partial : nullptr,
                     p.d_v_pool.present() ? partial + sizes.pooled * sizes.width : nullptr);
        }
      }
    }
  });

  parallel_for(sizes.heads, threads, [&](index_t head) {
    write_parameter_gradients<C>(p, sizes, plan, bias_table, head, share);
  });
  parallel_for(sizes.batches * sizes.heads, threads, [&](index_t pair) {
    write_pooled_gradients<C>(p, sizes, plan, pooled, pair / sizes.heads, pair % sizes.heads,
                              &pooled_partials[pair * plan.token_parts * pooled_size], pooled_size);
  });
}

}  // namespace

void aggregated_attention_backward(const AggregatedAttentionBackwardParams& params, int threads) {
  if (params.in.q.shape[2] == 0) return;
  if (params.in.q.dtype == DType::kFloat64) return backward<double>(params, threads);
  backward<float>(params, threads);
}

TRANSNEXT_END_LEVEL
