// aggregated_attention on the CPU, forward. The formulas are in transnext/aggregated_attention.h.
//
// Queries lie in the vector lanes, a block of two vectors at a time, so the softmax and every sum
// over channels or keys run lane by lane, without horizontal operations, for any head dim and any
// number of keys:
//
//   local logits    [L][block]    = sum over c of qh[c] k[c + shift]       shifted loads
//   pooled logits   [tile][block] = kpn [tile, d] * qh [d, block]          small matrix product
//   out             [d][block]   += vp^T [d, tile] * p [tile, block]       the same
//
// The softmax is online: it keeps a running maximum and rescales the sums so far when a tile of
// pooled keys exceeds it; the local logits set the first maximum. Only one tile of logits is kept.
//
// Per query and head: 4 d (L + P) flops for QK^T and PV, 2 d L for the tokens and L + P
// exponentials of 20 flops. In bytes: q, k, v and out once, 4 d sizeof(T), and k and v again in the
// halos of the token tiles; pooled keys and values stay in cache. At d = 24, L = 9, P = 49 that is
// 7.2 kflop and about 400 bytes of float32: bound by arithmetic.
#include "transnext/aggregated_attention.h"

#include "cpu/attention/attention.h"
#include "cpu/attention/pooled_tiles.h"
#include "cpu/attention/pooled_vectors.h"
#include "cpu/attention/token_prefetch.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/task_ranges.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/math.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

// The state of a block of queries between its phases.
template <class C>
struct QueryBlock {
  QueryBlock(const AttentionSizes<C>& sizes, index_t out_rows)
      : raw_query(kBlock<C> * sizes.channels),
        inverse_norms(kBlock<C>),
        scaling(kBlock<C>),
        query(kBlock<C> * sizes.channels),
        out(kBlock<C> * out_rows),
        logits(sizes.window.cells() * kBlock<C>),
        cells(sizes.window.cells()) {}

  index_t first = 0;
  index_t count = 0;
  index_t active = 0;        // cells
  Vector<C> maximum[2];      // of the logits so far
  Vector<C> sum[2];          // of the softmax so far
  Scratch<C> raw_query;      // [d][block] q
  Scratch<C> inverse_norms;  // [block] of the queries
  Scratch<C> scaling;        // [block] scale s
  Scratch<C> query;          // [d][block] qh
  Scratch<C> out;            // [d][block], and rows that pooled keys need
  Scratch<C> logits;         // [L][block] local logits, then weights
  Scratch<Cell<C>> cells;    // [L]
};

// Pooled: what computes with the pooled keys and values, PooledVectors or PooledTiles.
template <class C, class Pooled>
class ForwardTask {
 public:
  ForwardTask(const AggregatedAttentionParams& p, const AttentionSizes<C>& sizes,
              const LengthScale<C>& length_scale, const BiasTable<C>& bias_table,
              index_t panel_length)
      : p_(p),
        in_(p.in),
        sizes_(sizes),
        pooled_(sizes),
        length_scale_(length_scale),
        local_(sizes.window.cells()),
        halo_(round_up(sizes.window.halo(), kLanes<C>)),
        stride_(local_ > 0 ? round_up(panel_length + 2 * halo_, kBlock<C>) + kBlock<C> : 0),
        keys_(stride_ * sizes.channels),
        values_(stride_ * sizes.channels),
        block_(sizes, Pooled::out_rows(sizes.channels)),
        positional_(local_ * kBlock<C>),
        inverse_sum_(kBlock<C>),
        embedding_(sizes.channels),
        key_inverse_norms_(stride_),
        bias_(bias_table, in_.grid, in_.pool_grid, false) {}

  // Computes a work item and prefetches the tokens of the next one.
  void run(const HeadWorkItem& item, const HeadWorkItem& next) {
    batch_ = item.batch;
    head_ = item.head;
    const index_t first = panel_first_ = item.first - halo_;
    if (local_ > 0) {
      const index_t length = round_up(item.count + 2 * halo_, kBlock<C>);
      load_panel<C>(token_major(in_.k, batch_, head_), sizes_.tokens,
                    {keys_.data(), stride_, first}, 0, length, key_inverse_norms_.data());
      load_panel<C>(token_major(in_.v, batch_, head_), sizes_.tokens,
                    {values_.data(), stride_, first}, 0, length);
    }
    pooled_.load_head(in_, batch_, head_);
    load_embedding(in_, head_, embedding_);
    prefetch_.start(next, sizes_.tokens);
    prefetch_.add(in_.q, 0);
    prefetch_.add(in_.k, halo_);
    prefetch_.add(in_.v, halo_);
    prefetch_.add(p_.out, 0);
    prefetch_.add_pooled(in_.k_pool);
    prefetch_.add_pooled(in_.v_pool);
    prefetch_.spread((item.count + kWidth - 1) / kWidth, 5 + 2 * sizes_.key_tiles());
    for (index_t i = 0; i < item.count; i += kWidth) {
      block_.first = item.first + i;
      block_.count = smaller(kWidth, item.count - i);
      run(block_);
    }
  }

 private:
  static constexpr int n = kLanes<C>;
  static constexpr index_t kWidth = kBlock<C>;

  void run(QueryBlock<C>& block) {
    load_queries(block);
    prefetch_.advance();
    local_logits(block);
    prefetch_.advance();
    pooled_part(block);
    prefetch_.advance();
    local_part(block);
    prefetch_.advance();
    store_results(block);
  }

  void store_results(QueryBlock<C>& block) {
    const index_t first = block.first;
    store_block<C>(token_major(p_.out, batch_, head_), first, block.count, block.out.data(),
                   kWidth);
    if (!p_.log_sum_exp.present()) return;
    C log_sum_exp[kWidth];
    for (int v = 0; v < 2; ++v) store(log_sum_exp + v * n, block.maximum[v] + log(block.sum[v]));
    C* to = &element<C>(p_.log_sum_exp, batch_, first, head_);
    for (index_t lane = 0; lane < block.count; ++lane)
      to[lane * p_.log_sum_exp.stride[1]] = log_sum_exp[lane];
  }

  // Below every logit except -infinity: a maximum that is never -infinity, in bits neither, keeps
  // exp(-infinity - maximum) defined.
  static constexpr C lowest() { return sizeof(C) == 8 ? C(-1.7e308) : C(-2.3e38f); }

  TRANSNEXT_PHASE void load_queries(QueryBlock<C>& block) {
    C* raw = block.raw_query.data();
    load_block<C>(token_major(in_.q, batch_, head_), block.first, 0, block.count, raw, kWidth);
    find_inverse_norms(sizes_.channels, raw, kWidth, block.inverse_norms.data());
    const C scale = element<const C>(in_.scale, head_);
    const C* lengths = length_scale_.at(block.first);
    for (int v = 0; v < 2; ++v) {
      const auto inverse = load<Vector<C>>(&block.inverse_norms[v * n]);
      const Vector<C> scaling = scale * load<Vector<C>>(lengths + v * n);
      store(&block.scaling[v * n], scaling);
      for (index_t c = 0; c < sizes_.channels; ++c) {
        const index_t at = c * kWidth + v * n;
        store(&block.query[at], (load<Vector<C>>(raw + at) * inverse + embedding_[c]) * scaling);
      }
    }
  }

  // Fills the local logits and sets the first maximum.
  TRANSNEXT_PHASE void local_logits(QueryBlock<C>& block) {
    Vector<C> largest[2] = {broadcast<C>(lowest()), broadcast<C>(lowest())};
    block.active = active_cells(sizes_.window, block.first, block.count, Direction::kToCells,
                                block.cells.data());
    if (block.active > 0) {
      correlate(sizes_.channels, block.query.data(), kWidth, in_panel(keys_, block), stride_,
                block.cells.data(), block.active, block.count, block.logits.data());
    }
    const C* inverse_norms = in_panel(key_inverse_norms_, block);
    for (index_t i = 0; i < block.active; ++i) {
      const Cell<C>& cell = block.cells[i];
      const C bias =
          in_.local_bias.present() ? element<const C>(in_.local_bias, head_, cell.index) : C(0);
      for (int v = 0; v < 2; ++v) {
        C* at = &block.logits[cell.index * kWidth + v * n];
        const Vector<C> logit =
            load<Vector<C>>(at) * load<Vector<C>>(inverse_norms + cell.shift + v * n) + bias;
        const Vector<C> valid =
            select<C>(cell.valid[v], logit, broadcast<C>(-__builtin_huge_val()));
        store(at, valid);
        largest[v] = maximum(largest[v], valid);
      }
    }
    for (int v = 0; v < 2; ++v) {
      block.maximum[v] = largest[v];
      block.sum[v] = Vector<C>{};
    }
  }

  // The block's first token in a panel.
  const C* in_panel(const Scratch<C>& panel, const QueryBlock<C>& block) const {
    return panel.data() + (block.first - panel_first_);
  }

  TRANSNEXT_PHASE void pooled_part(QueryBlock<C>& block) {
    pooled_.start({block.raw_query.data(), block.inverse_norms.data(), block.scaling.data(),
                   block.query.data(), block.count});
    bias_.start(head_, block.first, block.count);
    for (index_t key = 0; key < sizes_.pooled; key += kKeyTile) {
      const index_t tile = smaller(kKeyTile, sizes_.pooled - key);
      Vector<C> largest[2] = {block.maximum[0], block.maximum[1]};
      pooled_.find_logits(key, tile, bias_, largest);
      prefetch_.advance();
      // Rescales the sums so far to a new maximum.
      if (key > 0 && any_lane<C>(lanes_of<C>((largest[0] > block.maximum[0]) |
                                             (largest[1] > block.maximum[1]))))
        rescale(block, largest);
      for (int v = 0; v < 2; ++v) block.maximum[v] = largest[v];
      pooled_.weigh_logits(tile, block.maximum, block.sum);
      prefetch_.advance();
      pooled_.add_values(key, tile, key > 0, block.out.data());
    }
  }

  void rescale(QueryBlock<C>& block, const Vector<C> (&largest)[2]) {
    for (int v = 0; v < 2; ++v) {
      const Vector<C> factor = exp_bounded<C>(block.maximum[v] - largest[v]);
      block.sum[v] *= factor;
      for (index_t c = 0; c < sizes_.channels; ++c) {
        C* at = &block.out[c * kWidth + v * n];
        store(at, load<Vector<C>>(at) * factor);
      }
    }
  }

  // Divides the pooled sum by the softmax's denominator and adds the local values, weighted by a_j
  // + q . tokens_j + token_bias_j.
  TRANSNEXT_PHASE void local_part(QueryBlock<C>& block) {
    C* logits = block.logits.data();
    if (block.active == local_) {
      weigh_and_sum(logits, local_, block.maximum, block.sum);
    } else {
      for (index_t i = 0; i < block.active; ++i)
        weigh_and_sum(logits + block.cells[i].index * kWidth, 1, block.maximum, block.sum);
    }
    for (int v = 0; v < 2; ++v) store(&inverse_sum_[v * n], C(1) / block.sum[v]);
    if (in_.tokens.present() && block.active > 0) {
      multiply<C>(
          local_, sizes_.channels, kWidth,
          {&element<const C>(in_.tokens, head_, 0, 0), in_.tokens.stride[2], in_.tokens.stride[1]},
          {block.raw_query.data(), kWidth}, {positional_.data(), kWidth}, false);
    }
    for (index_t i = 0; i < block.active; ++i) {
      const index_t j = block.cells[i].index;
      const C bias = in_.token_bias.present() ? element<const C>(in_.token_bias, head_, j) : C(0);
      for (int v = 0; v < 2; ++v) {
        const index_t at = j * kWidth + v * n;
        Vector<C> weight =
            load<Vector<C>>(logits + at) * load<Vector<C>>(&inverse_sum_[v * n]) + bias;
        if (in_.tokens.present())
          weight +=
              load<Vector<C>>(&positional_[at]) * load<Vector<C>>(&block.inverse_norms[v * n]);
        store(logits + at, weight);
      }
    }
    prefetch_.advance();
    gather<false>(sizes_.channels, block.cells.data(), block.active, block.count, logits, kWidth,
                  in_panel(values_, block), stride_, inverse_sum_.data(), block.out.data(), kWidth);
  }

  const AggregatedAttentionParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionSizes<C>& sizes_;
  Pooled pooled_;
  const LengthScale<C>& length_scale_;
  index_t local_;      // L
  index_t halo_;       // tokens of the panels before and after the item's own
  index_t stride_;     // tokens in a panel
  Scratch<C> keys_;    // [d][stride]
  Scratch<C> values_;  // [d][stride]
  QueryBlock<C> block_;
  Scratch<C> positional_;         // [L][block] q . tokens_j, q not normalised
  Scratch<C> inverse_sum_;        // [block] 1 / sum of the softmax
  Scratch<C> embedding_;          // [d]
  Scratch<C> key_inverse_norms_;  // [stride]
  BlockBias<C> bias_;
  TokenPrefetch prefetch_;
  index_t batch_ = 0;
  index_t head_ = 0;
  index_t panel_first_ = 0;  // token
};

template <class C, class Pooled>
void forward(const AggregatedAttentionParams& p, const AttentionSizes<C>& sizes, int threads) {
  const LengthScale<C> length_scale(sizes);
  const BiasTable<C> bias_table(p.in, threads);
  // Bytes per token: the panels of one head, and q, k, v and out of all heads.
  const index_t token_values = (2 + 4 * sizes.heads) * sizes.channels;
  const index_t length = token_tile_tokens<C>(sizes.window, token_values, 2);
  const index_t tasks = kTasksPerThread * threads;
  const AttentionCut cut(sizes.batches, sizes.tokens, sizes.heads, length, tasks, tasks,
                         wanted_tasks(tasks, sizes.heads));
  parallel_for(cut.tasks(), threads, [&](index_t task) {
    const HeadWorkItems items = cut.task(task);
    if (begins_range(task, cut.tasks(), threads)) {
      stream_tokens(p.in.q, items.at(0), sizes.tokens, 0);
      for (const View<4>* tensor : {&p.in.k, &p.in.v})
        stream_tokens(*tensor, items.at(0), sizes.tokens, sizes.window.halo());
    }
    const HeadWorkItem following = cut.likely_next(task);
    const typename Pooled::Unit unit;
    ForwardTask<C, Pooled> runner(p, sizes, length_scale, bias_table, length);
    for (index_t i = 0; i < items.size(); ++i)
      runner.run(items.at(i), items.at_or(i + 1, following));
  });
}

template <class C>
void forward(const AggregatedAttentionParams& p, int threads) {
  const AttentionSizes<C> sizes(p.in);
#if defined(TRANSNEXT_TILES)
  if constexpr (std::is_same_v<C, float>) {
    if (PooledTiles::suits(p.in, sizes)) return forward<C, PooledTiles>(p, sizes, threads);
  }
#endif
  forward<C, PooledVectors<C>>(p, sizes, threads);
}

}  // namespace

void aggregated_attention(const AggregatedAttentionParams& params, int threads) {
  if (params.in.q.shape[0] == 0 || params.in.q.shape[2] == 0) return;
  with_compute(params.in.q.dtype, [&](auto zero) { forward<decltype(zero)>(params, threads); });
}

TRANSNEXT_END_LEVEL
