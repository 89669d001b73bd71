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
// task, added in the tasks' order. So there are no atomics, and results depend on the number of
// threads only, through the number of tasks.
//
// With 16-bit storage `out` is rounded, and d_out . out would carry that error into every d_l and
// d_p; delta is then summed over the keys, which needs the pooled probabilities once more.
//
// Per query and head about 2.5 times the forward's flops: five products of 2 d (L + P) for two.
#include "cpu/attention.h"
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/thread_pool.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

using Params = AggregatedAttentionBackwardParams;

constexpr index_t kTasksPerThread = 4;  // uneven cores then still finish together

// How the work is cut: tasks are (head, range of images, range of stretches).
struct Plan {
  index_t stretch;      // tokens
  index_t stretches;    // per image
  index_t image_parts;  // ranges of images
  index_t token_parts;  // ranges of stretches

  template <class C>
  static Plan make(const Params& p, const AttentionSizes<C>& sizes, int threads) {
    Plan plan;
    const index_t channels = 4 * sizes.width + 2 * sizes.window.cells();
    plan.stretch = stretch_tokens<C>(sizes.window, channels, 3);
    plan.stretches = (sizes.tokens + plan.stretch - 1) / plan.stretch;
    const index_t wanted = (kTasksPerThread * threads + sizes.heads - 1) / sizes.heads;
    // A dense bias gradient is summed over images in place, so one task must see all images.
    const bool over_images = p.d_pool_bias.present() && p.in.pool_bias.dense();
    plan.image_parts = over_images ? 1 : larger(1, smaller(sizes.batches, wanted));
    plan.token_parts = smaller(plan.stretches, (wanted + plan.image_parts - 1) / plan.image_parts);
    return plan;
  }

  index_t parts() const { return image_parts * token_parts; }
};

// A task's share of the parameter gradients of its head.
template <class C>
struct ParameterShare {
  index_t width;  // padded d
  index_t local;  // L
  index_t table;  // entries of the head's bias table, 0 if its gradient is not wanted
  C* data;

  index_t size() const { return kLanes<C> * (1 + width + 2 * local) + local * width + table; }
  C* scale() const { return data; }                                        // [lanes]
  C* query_embedding() const { return data + kLanes<C>; }                  // [d][lanes]
  C* local_bias() const { return query_embedding() + width * kLanes<C>; }  // [L][lanes]
  C* token_bias() const { return local_bias() + local * kLanes<C>; }       // [L][lanes]
  C* tokens() const { return token_bias() + local * kLanes<C>; }           // [L][d]
  C* pool_bias() const { return tokens() + local * width; }                // [R][S]
};

template <class C>
class BackwardTask {
 public:
  BackwardTask(const Params& p, const AttentionSizes<C>& sizes, const PooledTokens<C>& pooled,
               const LengthScale<C>& length_scale, const Plan& plan)
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
        keys_(key_stride_ * sizes.width),
        values_(key_stride_ * sizes.width),
        inverse_norms_(key_stride_),
        query_(query_stride_ * sizes.width),
        d_out_(query_stride_ * sizes.width),
        d_logits_(query_stride_ * local_),
        weights_(query_stride_ * local_),
        rows_(kBlock<C> * sizes.width),
        query_rows_(kBlock<C> * sizes.width),
        unit_rows_(kBlock<C> * sizes.width),
        d_out_rows_(kBlock<C> * sizes.width),
        unit_query_(kBlock<C> * sizes.width),
        d_query_(kBlock<C> * sizes.width),
        probabilities_(local_ * kBlock<C>),
        d_weights_(local_ * kBlock<C>),
        positional_(local_ * kBlock<C>),
        cells_(local_),
        tile_(kKeyTile * kBlock<C>),
        d_tile_(kKeyTile * kBlock<C>),
        scaling_(kBlock<C>),
        lengths_(kBlock<C>),
        query_norms_(kBlock<C>),
        log_sum_exp_(kBlock<C>),
        delta_(kBlock<C>),
        bias_(in_.pool_bias, in_.grid, in_.pool_grid) {}

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
      load_panel(token_major(in_.k, batch, head), sizes_.tokens, sizes_.width,
                 {keys_.data(), key_stride_, key_first_}, key_stride_, rows_.data(),
                 inverse_norms_.data());
      load_panel(token_major(in_.v, batch, head), sizes_.tokens, sizes_.width,
                 {values_.data(), key_stride_, key_first_}, key_stride_, rows_.data());
    }
    if (query_halo_ > 0) {
      // Lanes that look outside the image are masked, but must lie in memory with defined contents.
      for (Scratch<C>* panel : {&query_, &d_out_, &d_logits_, &weights_}) panel->zero();
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
    const index_t width = sizes_.width;
    load_rows(token_major(in_.q, batch_, head_), first, count, kWidth, unit_rows_.data(), width);
    normalise_rows(kWidth, unit_rows_.data(), width, query_norms_.data());
    transpose(unit_rows_.data(), width, kWidth, width, unit_query_.data(), kWidth);
    const C scale = element<const C>(in_.scale, head_);
    for (index_t lane = 0; lane < kWidth; ++lane) {
      lengths_[lane] = length_scale_(first + smaller(lane, count - 1));
      scaling_[lane] = scale * lengths_[lane];
      // exp(logit - infinity): lanes beyond the stretch have no weights and so no gradients.
      log_sum_exp_[lane] = lane < count
                               ? element<const C>(p_.log_sum_exp, batch_, first + lane, head_)
                               : static_cast<C>(__builtin_huge_val());
    }
    for (index_t c = 0; c < width; ++c) {
      for (int v = 0; v < 2; ++v) {
        const auto unit = load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
        store(query_at(first) + c * query_stride_ + v * n,
              (unit + embedding(c)) * load<Vector<C>>(&scaling_[v * n]));
      }
    }
    load_rows(token_major(p_.d_out, batch_, head_), first, count, kWidth, d_out_rows_.data(),
              width);
    transpose(d_out_rows_.data(), width, kWidth, width, d_out_at(first), query_stride_);
  }

  C embedding(index_t c) const {
    const bool given = in_.query_embedding.present() && c < sizes_.channels;
    return given ? element<const C>(in_.query_embedding, head_, c) : C(0);
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
    delta_.zero();
    if (exact_delta_) {
      for (index_t i = 0; i < active; ++i) {
        for (index_t lane = 0; lane < kWidth; ++lane) {
          const index_t at = cells_[i].index * kWidth + lane;
          delta_[lane] += probabilities_[at] * d_weights_[at];
        }
      }
      bias_.start(head_, first, count);
      for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
        const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
        pooled_tile(first, key, keys);
        for (index_t m = 0; m < keys; ++m) {
          for (index_t lane = 0; lane < kWidth; ++lane)
            delta_[lane] += tile_[m * kWidth + lane] * d_tile_[m * kWidth + lane];
        }
      }
      return;
    }
    load_rows(token_major(p_.out, batch_, head_), first, count, kWidth, rows_.data(), sizes_.width);
    for (index_t lane = 0; lane < kWidth; ++lane) {
      Vector<C> sum{};
      for (index_t c = 0; c < sizes_.width; c += n) {
        const index_t at = lane * sizes_.width + c;
        sum += load<Vector<C>>(&rows_[at]) * load<Vector<C>>(&d_out_rows_[at]);
      }
      delta_[lane] = sum_lanes<C>(sum);
    }
    for (index_t i = 0; i < active; ++i) {
      for (index_t lane = 0; lane < kWidth; ++lane) {
        const index_t at = cells_[i].index * kWidth + lane;
        delta_[lane] -= positional_[at] * d_weights_[at];
      }
    }
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

  // tile_ = probabilities of the pooled keys from `key` on, d_tile_ = their gradients D_m.
  void pooled_tile(index_t first, index_t key, index_t keys) {
    const index_t width = sizes_.width;
    multiply<C>(keys, sizes_.channels, kWidth,
                {pooled_.keys(batch_, head_) + key * width, width, 1},
                {query_at(first), query_stride_}, {tile_.data(), kWidth}, false);
    bias_.add_to(tile_.data(), key, keys);
    multiply<C>(keys, sizes_.channels, kWidth,
                {pooled_.values(batch_, head_) + key * width, width, 1},
                {d_out_at(first), query_stride_}, {d_tile_.data(), kWidth}, false);
    for (int v = 0; v < 2; ++v) {
      const auto log_sum_exp = load<Vector<C>>(&log_sum_exp_[v * n]);
      for (index_t m = 0; m < keys; ++m) {
        C* logit = &tile_[m * kWidth + v * n];
        store(logit, exp<C>(load<Vector<C>>(logit) - log_sum_exp));
      }
    }
  }

  // Everything that a query gives to others than its window: d_q, pooled and parameter gradients.
  void owned_block(index_t first, index_t count, index_t active) {
    const index_t width = sizes_.width;
    d_query_.zero();
    if (active > 0) {
      gather<false>(sizes_.channels, cells_.data(), active, d_logits_at(first, 0), query_stride_,
                    keys_.data() + (first - key_first_), key_stride_, d_query_.data(), kWidth);
    }
    if (d_pool_keys_ != nullptr) {
      transpose(query_at(first), query_stride_, width, kWidth, query_rows_.data(), width);
    }
    bias_.start(head_, first, count);
    for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
      const index_t keys = smaller(kKeyTile, sizes_.pooled - key);
      pooled_tile(first, key, keys);
      if (d_pool_values_ != nullptr) {
        multiply<C>(keys, kWidth, width, {tile_.data(), kWidth, 1}, {d_out_rows_.data(), width},
                    {d_pool_values_ + key * width, width}, true);
      }
      for (int v = 0; v < 2; ++v) {
        const auto delta = load<Vector<C>>(&delta_[v * n]);
        for (index_t m = 0; m < keys; ++m) {
          const index_t at = m * kWidth + v * n;
          store(&d_tile_[at],
                load<Vector<C>>(&tile_[at]) * (load<Vector<C>>(&d_tile_[at]) - delta));
        }
      }
      multiply<C>(sizes_.channels, keys, kWidth,
                  {pooled_.keys(batch_, head_) + key * width, 1, width}, {d_tile_.data(), kWidth},
                  {d_query_.data(), kWidth}, true);
      if (d_pool_keys_ != nullptr) {
        multiply<C>(keys, kWidth, width, {d_tile_.data(), kWidth, 1}, {query_rows_.data(), width},
                    {d_pool_keys_ + key * width, width}, true);
      }
      if (p_.d_pool_bias.present()) bias_.add_gradient(d_tile_.data(), key, keys, d_pool_bias());
    }
    parameter_gradients(first, active);
    if (p_.d_q.present()) query_gradient(first, count, active);
  }

  C* d_pool_bias() {
    return in_.pool_bias.dense() ? &element<C>(p_.d_pool_bias, head_, 0, 0) : share_.pool_bias();
  }

  void parameter_gradients(index_t first, index_t active) {
    Vector<C> d_scale = load<Vector<C>>(share_.scale());
    for (index_t c = 0; c < sizes_.channels; ++c) {
      auto d_embedding = load<Vector<C>>(share_.query_embedding() + c * n);
      for (int v = 0; v < 2; ++v) {
        const auto gradient = load<Vector<C>>(&d_query_[c * kWidth + v * n]);
        const auto unit = load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
        d_embedding += gradient * load<Vector<C>>(&scaling_[v * n]);
        d_scale += gradient * (unit + embedding(c)) * load<Vector<C>>(&lengths_[v * n]);
      }
      store(share_.query_embedding() + c * n, d_embedding);
    }
    store(share_.scale(), d_scale);
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
      multiply<C>(local_, kWidth, sizes_.width, {d_weights_.data(), kWidth, 1},
                  {unit_rows_.data(), sizes_.width}, {share_.tokens(), sizes_.width}, true);
    }
  }

  // d_query_ becomes d_qn, then d_q.
  void query_gradient(index_t first, index_t count, index_t active) {
    for (int v = 0; v < 2; ++v) {
      const auto scaling = load<Vector<C>>(&scaling_[v * n]);
      const auto inverse_norm = load<Vector<C>>(&query_norms_[v * n]);
      Vector<C> along{};
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &d_query_[c * kWidth + v * n];
        Vector<C> gradient = load<Vector<C>>(at) * scaling;
        for (index_t i = 0; in_.tokens.present() && i < active; ++i) {
          const index_t j = cells_[i].index;
          gradient += element<const C>(in_.tokens, head_, c, j) *
                      load<Vector<C>>(&d_weights_[j * kWidth + v * n]);
        }
        store(at, gradient);
        along += gradient * load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
      }
      along *= direction_only<C>(inverse_norm);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &d_query_[c * kWidth + v * n];
        const auto unit = load<Vector<C>>(&unit_query_[c * kWidth + v * n]);
        store(at, (load<Vector<C>>(at) - unit * along) * inverse_norm);
      }
    }
    transpose(d_query_.data(), kWidth, sizes_.width, kWidth, rows_.data(), sizes_.width);
    store_rows(token_major(p_.d_q, batch_, head_), first, count, rows_.data(), sizes_.width);
  }

  // d_k and d_v of the task's own tokens, from the queries that look at them.
  void key_block(index_t first, index_t count) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToQueries, cells_.data());
    Scratch<C>& gradient = d_query_;
    if (p_.d_v.present()) {
      gradient.zero();
      gather<true>(sizes_.channels, cells_.data(), active, weights_at(first, 0), query_stride_,
                   d_out_at(first), query_stride_, gradient.data(), kWidth);
      transpose(gradient.data(), kWidth, sizes_.width, kWidth, rows_.data(), sizes_.width);
      store_rows(token_major(p_.d_v, batch_, head_), first, count, rows_.data(), sizes_.width);
    }
    if (!p_.d_k.present()) return;
    gradient.zero();
    gather<true>(sizes_.channels, cells_.data(), active, d_logits_at(first, 0), query_stride_,
                 query_at(first), query_stride_, gradient.data(), kWidth);
    const C* unit = keys_.data() + (first - key_first_);
    for (int v = 0; v < 2; ++v) {
      const auto inverse_norm = load<Vector<C>>(&inverse_norms_[first - key_first_ + v * n]);
      Vector<C> along{};
      for (index_t c = 0; c < sizes_.channels; ++c)
        along += load<Vector<C>>(&gradient[c * kWidth + v * n]) *
                 load<Vector<C>>(unit + c * key_stride_ + v * n);
      along *= direction_only<C>(inverse_norm);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &gradient[c * kWidth + v * n];
        store(at, (load<Vector<C>>(at) - load<Vector<C>>(unit + c * key_stride_ + v * n) * along) *
                      inverse_norm);
      }
    }
    transpose(gradient.data(), kWidth, sizes_.width, kWidth, rows_.data(), sizes_.width);
    store_rows(token_major(p_.d_k, batch_, head_), first, count, rows_.data(), sizes_.width);
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
  Scratch<C> keys_;           // [d][key_stride] normalised
  Scratch<C> values_;         // [d][key_stride]
  Scratch<C> inverse_norms_;  // [key_stride]
  Scratch<C> query_;          // [d][query_stride] qh
  Scratch<C> d_out_;          // [d][query_stride]
  Scratch<C> d_logits_;       // [L][query_stride]
  Scratch<C> weights_;        // [L][query_stride] w_j
  Scratch<C> rows_;           // [block][d]
  Scratch<C> query_rows_;     // [block][d] qh
  Scratch<C> unit_rows_;      // [block][d] qn
  Scratch<C> d_out_rows_;     // [block][d]
  Scratch<C> unit_query_;     // [d][block] qn
  Scratch<C> d_query_;        // [d][block] d_qh, d_qn, d_q in turn; d_v and d_k of a block
  Scratch<C> probabilities_;  // [L][block] a_j
  Scratch<C> d_weights_;      // [L][block] D_j
  Scratch<C> positional_;     // [L][block] t_j
  Scratch<Cell<C>> cells_;    // [L]
  Scratch<C> tile_;           // [tile][block] a_m
  Scratch<C> d_tile_;         // [tile][block] D_m, then d_p_m
  Scratch<C> scaling_;        // [block] scale s(n)
  Scratch<C> lengths_;        // [block] s(n)
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

// Sums a head's shares in the order of the tasks and writes the parameter gradients.
template <class C>
void write_parameter_gradients(const Params& p, const AttentionSizes<C>& sizes, const Plan& plan,
                               index_t head, ParameterShare<C> share) {
  const index_t size = share.size();
  C* total = share.data + head * plan.parts() * size;
  for (index_t part = 1; part < plan.parts(); ++part) {
    for (index_t i = 0; i < size; ++i) total[i] += total[part * size + i];
  }
  share.data = total;
  const auto sum_at = [](const C* lanes, index_t i) {
    return sum_lanes<C>(load<Vector<C>>(lanes + i * kLanes<C>));
  };
  if (p.d_scale.present()) element<C>(p.d_scale, head) = sum_at(share.scale(), 0);
  for (index_t c = 0; c < sizes.channels && p.d_query_embedding.present(); ++c)
    element<C>(p.d_query_embedding, head, c) = sum_at(share.query_embedding(), c);
  for (index_t j = 0; j < share.local; ++j) {
    if (p.d_local_bias.present())
      element<C>(p.d_local_bias, head, j) = sum_at(share.local_bias(), j);
    if (p.d_token_bias.present())
      element<C>(p.d_token_bias, head, j) = sum_at(share.token_bias(), j);
    for (index_t c = 0; c < sizes.channels && p.d_tokens.present(); ++c)
      element<C>(p.d_tokens, head, c, j) = share.tokens()[j * share.width + c];
  }
  for (index_t i = 0; i < share.table; ++i)
    (&element<C>(p.d_pool_bias, head, 0, 0))[i] = share.pool_bias()[i];
}

// Sums one image's and head's pooled gradients over the token parts and writes d_k_pool and
// d_v_pool.
template <class C>
void write_pooled_gradients(const Params& p, const AttentionSizes<C>& sizes, const Plan& plan,
                            const PooledTokens<C>& pooled, index_t batch, index_t head,
                            C* partials) {
  const index_t size = sizes.pooled * sizes.width;
  for (index_t part = 1; part < plan.token_parts; ++part) {
    for (index_t i = 0; i < 2 * size; ++i) partials[i] += partials[part * 2 * size + i];
  }
  if (p.d_v_pool.present()) {
    store_rows(token_major(p.d_v_pool, batch, head), 0, sizes.pooled, partials + size, sizes.width);
  }
  if (!p.d_k_pool.present()) return;
  for (index_t m = 0; m < sizes.pooled; ++m) {
    const C* unit = pooled.keys(batch, head) + m * sizes.width;
    const C inverse_norm = pooled.inverse_norms(batch, head)[m];
    C* gradient = partials + m * sizes.width;
    Vector<C> along{};
    for (index_t c = 0; c < sizes.width; c += kLanes<C>)
      along += load<Vector<C>>(gradient + c) * load<Vector<C>>(unit + c);
    const C direction = direction_only<C>(broadcast<C>(inverse_norm))[0] * sum_lanes<C>(along);
    for (index_t c = 0; c < sizes.width; ++c)
      gradient[c] = (gradient[c] - unit[c] * direction) * inverse_norm;
  }
  store_rows(token_major(p.d_k_pool, batch, head), 0, sizes.pooled, partials, sizes.width);
}

template <class C>
void backward(const Params& p, int threads) {
  const AttentionSizes<C> sizes(p.in);
  const PooledTokens<C> pooled(p.in, sizes, threads);
  const LengthScale<C> length_scale(sizes);
  const Plan plan = Plan::make<C>(p, sizes, threads);

  const bool table_gradient = p.d_pool_bias.present() && p.in.pool_bias.table();
  ParameterShare<C> share{sizes.width, sizes.window.cells(),
                          table_gradient ? p.d_pool_bias.shape[1] * p.d_pool_bias.shape[2] : 0,
                          nullptr};
  Scratch<C> shares(sizes.heads * plan.parts() * share.size());
  shares.zero();
  share.data = shares.data();
  const index_t pooled_size = 2 * sizes.pooled * sizes.width;  // keys, then values
  Scratch<C> pooled_partials(sizes.batches * sizes.heads * plan.token_parts * pooled_size);
  pooled_partials.zero();
  if (p.d_pool_bias.present() && p.in.pool_bias.dense()) {
    for (index_t head = 0; head < sizes.heads; ++head) {
      __builtin_memset(&element<C>(p.d_pool_bias, head, 0, 0), 0,
                       static_cast<unsigned long>(sizes.tokens * sizes.pooled) * sizeof(C));
    }
  }

  parallel_for(sizes.heads * plan.parts(), threads, [&](index_t task) {
    const index_t head = task / plan.parts();
    const index_t image_part = task % plan.parts() / plan.token_parts;
    const index_t token_part = task % plan.token_parts;
    ParameterShare<C> own = share;
    own.data += task * share.size();
    BackwardTask<C> runner(p, sizes, pooled, length_scale, plan);
    for (index_t batch = sizes.batches * image_part / plan.image_parts;
         batch < sizes.batches * (image_part + 1) / plan.image_parts; ++batch) {
      C* partial = &pooled_partials[((batch * sizes.heads + head) * plan.token_parts + token_part) *
                                    pooled_size];
      for (index_t i = plan.stretches * token_part / plan.token_parts;
           i < plan.stretches * (token_part + 1) / plan.token_parts; ++i) {
        const index_t first = i * plan.stretch;
        runner.run(batch, head, first, smaller(plan.stretch, sizes.tokens - first), own,
                   p.d_k_pool.present() ? partial : nullptr,
                   p.d_v_pool.present() ? partial + sizes.pooled * sizes.width : nullptr);
      }
    }
  });

  parallel_for(sizes.heads, threads,
               [&](index_t head) { write_parameter_gradients<C>(p, sizes, plan, head, share); });
  parallel_for(sizes.batches * sizes.heads, threads, [&](index_t pair) {
    write_pooled_gradients<C>(p, sizes, plan, pooled, pair / sizes.heads, pair % sizes.heads,
                              &pooled_partials[pair * plan.token_parts * pooled_size]);
  });
}

}  // namespace

void aggregated_attention_backward(const AggregatedAttentionBackwardParams& params, int threads) {
  if (params.in.q.shape[2] == 0) return;
  if (params.in.q.dtype == DType::kFloat64) return backward<double>(params, threads);
  backward<float>(params, threads);
}

TRANSNEXT_END_LEVEL
