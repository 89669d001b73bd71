// aggregated_attention on the CPU, backward. With the forward's formulas, the gradients of the
// weights w_j and a_m, D_j = d_out . v(n + offset_j) and D_m = d_out . vp(m), and the positional
// term t_j = qn . tokens_j + token_bias_j:
//
//   delta    = sum over all keys of a D = d_out . out - sum_j t_j D_j
//   d_l, d_p = a (D - delta), the gradients of the local and pooled logits, with the probabilities
//              a = exp(logit - log_sum_exp), recomputed
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
// A task owns a token tile as queries and as keys. It computes d_l and w for its queries and for
// those within a window's reach on both sides, which see its keys, so every sum d_k and d_v has one
// owner. Pooled and parameter gradients are sums over all queries: each part of the queries has
// partial sums, which are added in the order of the parts. So there are no atomics, and results
// depend only on the number of threads, through the number of tasks.
//
// With 16-bit storage `out` is rounded, and d_out . out would carry that error into every d_l and
// d_p. delta is then summed over the keys, which needs the pooled probabilities twice.
//
// Per query and head about 2.5 times the forward's flops: five GEMMs of 2 d (L + P) instead of two.
#include "cpu/attention/query_gradients.h"
#include "cpu/attention/token_tile.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/task_ranges.h"
#include "cpu/runtime/thread_pool.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

using Params = AggregatedAttentionBackwardParams;

// Runs a token tile of one head: the queries around it that see its keys, its own queries, and its
// keys. Keys follow the queries as closely as their windows allow, while their inputs are still in
// cache.
template <class C>
void run_token_tile(AttentionTokenTile<C>& token_tile, QueryGradients<C>& queries, index_t tokens,
                    index_t first, index_t count) {
  const index_t end = first + count;
  const index_t halo = token_tile.query_halo();
  index_t written = token_tile.key_gradients() ? first : end;
  const auto write_keys = [&](index_t done) {  // queries before `done` are done
    for (; written < end && (smaller(written + kBlock<C>, end) + halo <= done || done == tokens);
         written += kBlock<C>)
      token_tile.write_key_gradients(written, smaller(kBlock<C>, end - written));
  };
  token_tile.load(first);
  queries.run(larger(first - halo, 0), first, false);
  for (index_t i = first; i < end; i += kBlock<C>) {
    const index_t next = smaller(i + kBlock<C>, end);
    token_tile.load(next);
    queries.run(i, next, true);
    write_keys(next);
  }
  const index_t last = smaller(end + halo, tokens);
  token_tile.load(last);
  queries.run(end, last, false);
  write_keys(last);
}

template <class C>
void clear(C* values, index_t count) {
  __builtin_memset(values, 0, static_cast<unsigned long>(count) * sizeof(C));
}

template <class C>
void backward(const Params& p, int threads) {
  const AttentionSizes<C> sizes(p.in);
  const LengthScale<C> length_scale(sizes);
  const BiasTable<C> bias_table(p.in, threads);
  const bool table_gradient = p.d_pool_bias.present() && p.in.pool_bias.table();
  const index_t table = table_gradient ? bias_table.rows() * bias_table.stride() : 0;
  const AttentionCut cut = cut_gradients<C>(p, sizes, table, threads);

  ParameterPartialSums<C> partial_sums{sizes.width, sizes.window.cells(), table, nullptr};
  Scratch<C> all_partial_sums(sizes.heads * cut.parts() * partial_sums.size());
  partial_sums.data = all_partial_sums.data();
  const index_t pooled_size = 2 * sizes.pooled * sizes.width;  // keys, then values
  // With room for a vector that extends beyond the last row.
  Scratch<C> pooled_partials(sizes.batches * sizes.heads * cut.token_parts * pooled_size +
                             kLanes<C>);
  if (p.d_pool_bias.present() && p.in.pool_bias.dense()) {
    for (index_t head = 0; head < sizes.heads; ++head)
      clear(&element<C>(p.d_pool_bias, head, 0, 0), sizes.tokens * sizes.pooled);
  }

  parallel_for(cut.tasks(), threads, [&](index_t task) {
    const HeadWorkItems items = cut.task(task);
    const auto partial_sums_of = [&](index_t head) {
      ParameterPartialSums<C> own = partial_sums;
      own.data += (head * cut.parts() + items.part) * partial_sums.size();
      return own;
    };
    const auto partial_of = [&](const HeadWorkItem& item) {
      const index_t pair = item.batch * sizes.heads + item.head;
      return &pooled_partials[(pair * cut.token_parts + items.token_part) * pooled_size];
    };
    for (index_t head = items.first_head; head < items.end_head(); ++head)
      clear(partial_sums_of(head).data, partial_sums.size());
    if (begins_range(task, cut.tasks(), threads)) {
      for (const View<4>* tensor : {&p.in.q, &p.in.k, &p.in.v, &p.d_out, &p.out})
        stream_tokens(*tensor, items.at(0), sizes.tokens, 0);
    }
    const HeadWorkItem following = cut.likely_next(task);
    AttentionTokenTile<C> token_tile(p, sizes, cut.token_tile);
    QueryGradients<C> queries(p, sizes, length_scale, bias_table, token_tile);
    for (index_t i = 0; i < items.size(); ++i) {
      const HeadWorkItem item = items.at(i);
      C* partial = partial_of(item);
      if (items.begins_image(i)) clear(partial, pooled_size);
      token_tile.start(item.batch, item.head, item.first);
      queries.start(partial_sums_of(item.head), p.d_k_pool.present() ? partial : nullptr,
                    p.d_v_pool.present() ? partial + sizes.pooled * sizes.width : nullptr);
      queries.prefetch(items.at_or(i + 1, following), item.count);
      run_token_tile(token_tile, queries, sizes.tokens, item.first, item.count);
      if (cut.token_parts == 1 && items.ends_image(i))
        write_pooled_gradients<C>(p, sizes, 1, item.batch, item.head, partial);
    }
  });

  parallel_for(sizes.heads, threads, [&](index_t head) {
    write_parameter_gradients<C>(p, sizes, cut.parts(), bias_table, head, partial_sums);
  });
  if (cut.token_parts == 1) return;
  parallel_for(sizes.batches * sizes.heads, threads, [&](index_t pair) {
    write_pooled_gradients<C>(p, sizes, cut.token_parts, pair / sizes.heads, pair % sizes.heads,
                              &pooled_partials[pair * cut.token_parts * pooled_size]);
  });
}

}  // namespace

void aggregated_attention_backward(const AggregatedAttentionBackwardParams& params, int threads) {
  if (params.in.q.shape[2] == 0) return;
  with_compute(params.in.q.dtype, [&](auto zero) { backward<decltype(zero)>(params, threads); });
}

TRANSNEXT_END_LEVEL
