// aggregated_attention on the CPU, forward. The formulas are in transnext/aggregated_attention.h.
//
// Queries lie in the vector lanes, a block of two vectors at a time, so that the softmax and every
// sum over channels or keys is lane by lane, without horizontal operations, for any head dim and
// any number of keys:
//
//   local logits    [L][block]    = sum over c of qh[c] kn[c + shift]      shifted loads
//   pooled logits   [tile][block] = kpn [tile, d] * qh [d, block]          small matrix product
//   out             [d][block]   += vp^T [d, tile] * p [tile, block]       the same
//
// The softmax is the online one: a running maximum, to which the sums so far are rescaled when a
// tile of pooled keys exceeds it; the local logits set the first maximum. Nothing is kept per query
// and key but one tile.
//
// Per query and head: 4 d (L + P) flops for the two products, 2 d L for the tokens and L + P
// exponentials of 20 flops. In bytes: q, k, v and out once, 4 d sizeof(T), and k and v again in the
// halos of the stretches; pooled keys and values stay in cache. At d = 24, L = 9, P = 49 that is
// 7.2 kflop and about 400 bytes of float32: bound by arithmetic.
#include "transnext/aggregated_attention.h"

#include "cpu/attention.h"
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/thread_pool.h"
#include "cpu/token_prefetch.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

template <class C>
class ForwardTask {
 public:
  ForwardTask(const AggregatedAttentionParams& p, const AttentionSizes<C>& sizes,
              const PooledTokens<C>& pooled, const LengthScale<C>& length_scale,
              const BiasTable<C>& bias_table, index_t panel_length)
      : p_(p),
        in_(p.in),
        sizes_(sizes),
        pooled_(pooled),
        length_scale_(length_scale),
        local_(sizes.window.cells()),
        halo_(sizes.window.halo()),
        stride_(local_ > 0 ? round_up(panel_length + 2 * halo_, kBlock<C>) + kBlock<C> : 0),
        keys_(stride_ * sizes.channels),
        values_(stride_ * sizes.channels),
        unit_query_(kBlock<C> * sizes.channels),
        query_(kBlock<C> * sizes.channels),
        out_(kBlock<C> * sizes.channels),
        tile_(kKeyTile * kBlock<C>),
        logits_(local_ * kBlock<C>),
        positional_(local_ * kBlock<C>),
        cells_(local_),
        share_(kBlock<C>),
        embedding_(sizes.channels),
        inverse_norms_(stride_),
        bias_(bias_table, in_.grid, in_.pool_grid, false) {}

  // Computes a slice and has the tokens of the next one brought into cache meanwhile.
  void run(const HeadSlice& slice, const HeadSlice& next) {
    batch_ = slice.batch;
    head_ = slice.head;
    const index_t first = slice.first;
    if (local_ > 0) {
      const index_t length = round_up(slice.count + 2 * halo_, kBlock<C>);
      load_panel<C>(token_major(in_.k, batch_, head_), sizes_.tokens,
                    {keys_.data(), stride_, first - halo_}, 0, length, inverse_norms_.data());
      load_panel<C>(token_major(in_.v, batch_, head_), sizes_.tokens,
                    {values_.data(), stride_, first - halo_}, 0, length);
    }
    load_embedding(in_, head_, embedding_);
    prefetch_.start(next, sizes_.tokens);
    prefetch_.add(in_.q, 0);
    prefetch_.add(in_.k, halo_);
    prefetch_.add(in_.v, halo_);
    prefetch_.spread((slice.count + kBlock<C> - 1) / kBlock<C>);
    for (index_t i = 0; i < slice.count; i += kBlock<C>)
      block(first, first + i, smaller(kBlock<C>, slice.count - i));
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;

  void block(index_t panel_first, index_t first, index_t count) {
    const TokenView out = token_major(p_.out, batch_, head_);
    load_queries(first, count);
    prefetch_stores(out, first, count);
    prefetch_.advance();
    Vector<C> maximum_logit[2] = {broadcast<C>(lowest()), broadcast<C>(lowest())};
    Vector<C> sum[2] = {};
    const index_t active = local_logits(panel_first, first, count, maximum_logit);
    prefetch_.advance();
    pooled_part(first, count, maximum_logit, sum);
    prefetch_.advance();
    local_part(panel_first, first, active, maximum_logit, sum);
    prefetch_.advance();

    store_block<C>(out, first, count, out_.data(), kWidth);
    C log_sum_exp[kWidth];
    for (int v = 0; v < 2; ++v) store(log_sum_exp + v * n, maximum_logit[v] + log(sum[v]));
    C* to = &element<C>(p_.log_sum_exp, batch_, first, head_);
    for (index_t lane = 0; lane < count; ++lane)
      to[lane * p_.log_sum_exp.stride[1]] = log_sum_exp[lane];
  }

  // Below every logit but -infinity: a maximum that is never -infinity keeps exp(-infinity -
  // maximum) defined.
  static constexpr C lowest() { return sizeof(C) == 8 ? C(-1.7e308) : C(-3.4e38f); }

  TRANSNEXT_PHASE void load_queries(index_t first, index_t count) {
    load_block<C>(token_major(in_.q, batch_, head_), first, 0, count, unit_query_.data(), kWidth);
    const C scale = element<const C>(in_.scale, head_);
    const C* lengths = length_scale_.at(first);
    for (int v = 0; v < 2; ++v) {
      C* unit = unit_query_.data() + v * n;
      const Vector<C> inverse = inverse_norm(sizes_.channels, unit, kWidth);
      const Vector<C> scaling = scale * load<Vector<C>>(lengths + v * n);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        const Vector<C> direction = load<Vector<C>>(unit + c * kWidth) * inverse;
        store(unit + c * kWidth, direction);
        store(&query_[c * kWidth + v * n], (direction + embedding_[c]) * scaling);
      }
    }
  }

  // Fills logits_ and raises the maximum. Returns the number of cells in cells_.
  TRANSNEXT_PHASE index_t local_logits(index_t panel_first, index_t first, index_t count,
                                       Vector<C> (&maximum_logit)[2]) {
    const index_t active =
        active_cells(sizes_.window, first, count, Direction::kToCells, cells_.data());
    if (active == 0) return 0;
    const C* keys = keys_.data() + (first - panel_first + halo_);
    correlate(sizes_.channels, query_.data(), kWidth, keys, stride_, cells_.data(), active,
              logits_.data());
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      const C bias = in_.local_bias.present() ? element<const C>(in_.local_bias, head_, j) : C(0);
      for (int v = 0; v < 2; ++v) {
        const Vector<C> logit = load<Vector<C>>(&logits_[j * kWidth + v * n]) + bias;
        const Vector<C> valid =
            cells_[i].valid[v] != 0 ? logit : broadcast<C>(-__builtin_huge_val());
        store(&logits_[j * kWidth + v * n], valid);
        maximum_logit[v] = maximum(maximum_logit[v], valid);
      }
    }
    return active;
  }

  TRANSNEXT_PHASE void pooled_part(index_t first, index_t count, Vector<C> (&maximum_logit)[2],
                                   Vector<C> (&sum)[2]) {
    bias_.start(head_, first, count);
    for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
      const index_t tile = smaller(kKeyTile, sizes_.pooled - key);
      if (bias_.present()) bias_.fill(tile_.data(), key, tile);
      multiply<C, 1>(tile, sizes_.channels, kWidth, {pooled_.keys(batch_, head_, key), 1, kKeyTile},
                     {query_.data(), kWidth}, {tile_.data(), kWidth},
                     LaneRows<const C>{bias_.present() ? tile_.data() : nullptr, kWidth});
      Vector<C> largest[2] = {maximum_logit[0], maximum_logit[1]};
      for (index_t m = 0; m < tile; ++m) {
        for (int v = 0; v < 2; ++v)
          largest[v] = maximum(load<Vector<C>>(&tile_[m * kWidth + v * n]), largest[v]);
      }
      // What was summed up to here, relative to the maximum up to here.
      if (key > 0 && any_lane<C>((largest[0] > maximum_logit[0]) | (largest[1] > maximum_logit[1])))
        rescale(maximum_logit, largest, sum);
      for (int v = 0; v < 2; ++v) maximum_logit[v] = largest[v];
      weigh(tile, largest, sum);
      multiply<C, kKeyTile>(sizes_.channels, tile, kWidth,
                            {pooled_.values(batch_, head_, key), kKeyTile, 1},
                            {tile_.data(), kWidth}, {out_.data(), kWidth},
                            LaneRows<const C>{key > 0 ? out_.data() : nullptr, kWidth});
    }
  }

  // The logits of a tile's keys become weights.
  void weigh(index_t keys, const Vector<C> (&largest)[2], Vector<C> (&sum)[2]) {
    constexpr int kKeys = 2;  // at a time
    const Vector<C> base[2] = {largest[0], largest[1]};
    Vector<C> partial[2] = {sum[0], sum[1]};
    C* logits = tile_.data();
    index_t m = 0;
    for (; m + kKeys <= keys; m += kKeys, logits += kKeys * kWidth)
      weigh_keys<kKeys>(logits, base, partial);
    for (; m < keys; ++m, logits += kWidth) weigh_keys<1>(logits, base, partial);
    sum[0] = partial[0];
    sum[1] = partial[1];
  }

  template <int kCount>
  static void weigh_keys(C* logits, const Vector<C> (&largest)[2], Vector<C> (&sum)[2]) {
    Vector<C> weights[2 * kCount];
    for (int i = 0; i < 2 * kCount; ++i)
      weights[i] = load<Vector<C>>(logits + i * n) - largest[i % 2];
    exp_bounded<C>(weights);
    for (int i = 0; i < 2 * kCount; ++i) {
      store(logits + i * n, weights[i]);
      sum[i % 2] += weights[i];
    }
  }

  void rescale(const Vector<C> (&before)[2], const Vector<C> (&after)[2], Vector<C> (&sum)[2]) {
    for (int v = 0; v < 2; ++v) {
      const Vector<C> factor = exp_bounded<C>(before[v] - after[v]);
      sum[v] *= factor;
      for (index_t c = 0; c < sizes_.channels; ++c)
        store(&out_[c * kWidth + v * n], load<Vector<C>>(&out_[c * kWidth + v * n]) * factor);
    }
  }

  // Divides the pooled sum by the softmax's denominator and adds the local values, weighted by a_j
  // + q . tokens_j + token_bias_j.
  TRANSNEXT_PHASE void local_part(index_t panel_first, index_t first, index_t active,
                                  const Vector<C> (&maximum_logit)[2], Vector<C> (&sum)[2]) {
    for (index_t i = 0; i < active; ++i) {
      weigh_keys<1>(&logits_[cells_[i].index * kWidth], maximum_logit, sum);
    }
    for (int v = 0; v < 2; ++v) store(&share_[v * n], C(1) / sum[v]);
    if (in_.tokens.present() && active > 0) {
      multiply<C>(
          local_, sizes_.channels, kWidth,
          {&element<const C>(in_.tokens, head_, 0, 0), in_.tokens.stride[2], in_.tokens.stride[1]},
          {unit_query_.data(), kWidth}, {positional_.data(), kWidth}, false);
    }
    for (index_t i = 0; i < active; ++i) {
      const index_t j = cells_[i].index;
      const C bias = in_.token_bias.present() ? element<const C>(in_.token_bias, head_, j) : C(0);
      for (int v = 0; v < 2; ++v) {
        const index_t at = j * kWidth + v * n;
        Vector<C> weight = load<Vector<C>>(&logits_[at]) * load<Vector<C>>(&share_[v * n]) + bias;
        if (in_.tokens.present()) weight += load<Vector<C>>(&positional_[at]);
        store(&logits_[at], weight);
      }
    }
    gather<false>(sizes_.channels, cells_.data(), active, logits_.data(), kWidth,
                  values_.data() + (first - panel_first + halo_), stride_, share_.data(),
                  out_.data(), kWidth);
  }

  const AggregatedAttentionParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionSizes<C>& sizes_;
  const PooledTokens<C>& pooled_;
  const LengthScale<C>& length_scale_;
  index_t local_;           // L
  index_t halo_;            // tokens of the panels before and after the task's own
  index_t stride_;          // tokens in a panel
  Scratch<C> keys_;         // [d][stride] normalised
  Scratch<C> values_;       // [d][stride]
  Scratch<C> unit_query_;   // [d][block] qn
  Scratch<C> query_;        // [d][block] qh
  Scratch<C> out_;          // [d][block]
  Scratch<C> tile_;         // [tile][block] pooled logits, then weights
  Scratch<C> logits_;       // [L][block] local logits, then weights
  Scratch<C> positional_;   // [L][block] q . tokens_j
  Scratch<Cell<C>> cells_;  // [L]
  Scratch<C> share_;        // [block] 1 / sum of the softmax
  Scratch<C> embedding_;    // [d]
  Scratch<C> inverse_norms_;
  BlockBias<C> bias_;
  TokenPrefetch prefetch_;
  index_t batch_ = 0;
  index_t head_ = 0;
};

template <class C>
void forward(const AggregatedAttentionParams& p, int threads) {
  const AttentionSizes<C> sizes(p.in);
  const PooledTokens<C> pooled(p.in, sizes, threads);
  const LengthScale<C> length_scale(sizes);
  const BiasTable<C> bias_table(p.in, threads);
  // The panels of one head, and q, k, v and out of all of them.
  const index_t token_values = (2 + 4 * sizes.heads) * sizes.channels;
  const index_t length = stretch_tokens<C>(sizes.window, token_values, 2);
  const index_t tasks = kTasksPerThread * threads;
  const AttentionCut cut(sizes.batches, sizes.tokens, sizes.heads, length, tasks, tasks, tasks);
  parallel_for(cut.tasks(), threads, [&](index_t task) {
    const HeadSlices slices = cut.task(task);
    stream_tokens(p.in.q, slices, 0);
    for (const View<4>* tensor : {&p.in.k, &p.in.v})
      stream_tokens(*tensor, slices, sizes.window.halo());
    ForwardTask<C> runner(p, sizes, pooled, length_scale, bias_table, length);
    for (index_t i = 0; i < slices.size(); ++i) runner.run(slices.at(i), slices.at(i + 1));
  });
}

}  // namespace

void aggregated_attention(const AggregatedAttentionParams& params, int threads) {
  if (params.in.q.shape[0] == 0 || params.in.q.shape[2] == 0) return;
  if (params.in.q.dtype == DType::kFloat64) return forward<double>(params, threads);
  forward<float>(params, threads);
}

TRANSNEXT_END_LEVEL
