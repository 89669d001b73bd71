// Around the backward of aggregated attention: how its work is split into tasks, the tasks' partial
// sums of the gradients that sum over queries, and the final sums.
#pragma once

#include "cpu/attention/attention.h"

TRANSNEXT_BEGIN_LEVEL

// Memory of a token tile. Larger tiles would still fit into the second-level cache, but each row of
// a panel would then lie in a page of its own, more pages than the first-level TLB holds.
constexpr index_t kGradientTokenTileBytes = 320 * 1024;

// How the work is split. Each part has its own partial sums of every head's parameter gradients.
// table: entries of a head's gradient of the bias table.
template <class C>
inline AttentionCut cut_gradients(const AggregatedAttentionBackwardParams& p,
                                  const AttentionSizes<C>& sizes, index_t table, int threads) {
  // Few copies of a large table; several tasks then read the same cache lines of tokens.
  constexpr index_t kLargeTable = 32 * 1024;
  const index_t tasks = kTasksPerThread * threads;
  const index_t parts = table > kLargeTable ? (tasks + sizes.heads - 1) / sizes.heads : tasks;
  // A dense bias gradient is summed over images in place, so one task must see all images.
  const bool over_images = p.d_pool_bias.present() && p.in.pool_bias.dense();
  const index_t values = 4 * sizes.channels + 2 * sizes.window.cells();
  const index_t token_tile = token_tile_tokens<C>(sizes.window, values, 3, kGradientTokenTileBytes);
  return {sizes.batches,
          sizes.tokens,
          sizes.heads,
          token_tile,
          over_images ? 1 : tasks,
          parts,
          wanted_tasks(tasks, sizes.heads)};
}

// A part's partial sums of the parameter gradients of one head.
template <class C>
struct ParameterPartialSums {
  index_t width;  // padded d
  index_t local;  // L
  index_t table;  // entries of the head's bias table (BiasTable), 0 if its gradient is not wanted
  C* data;

  index_t size() const {
    return round_up(kLanes<C> * (1 + width + 2 * local) + local * width + table, kLanes<C>);
  }
  C* scale() const { return data; }                                        // [lanes]
  C* query_embedding() const { return data + kLanes<C>; }                  // [d][lanes]
  C* local_bias() const { return query_embedding() + width * kLanes<C>; }  // [L][lanes]
  C* token_bias() const { return local_bias() + local * kLanes<C>; }       // [L][lanes]
  C* tokens() const { return token_bias() + local * kLanes<C>; }           // [L][d]
  C* pool_bias() const { return tokens() + local * width; }                // [R][stride]
};

// The gradient of a block of tokens through their normalisation, in place: gradient is [d][block].
template <class C>
inline void normalisation_gradient(index_t channels, const C* tokens, index_t token_stride,
                                   const C* inverse_norms, C* gradient) {
  constexpr index_t n = kLanes<C>;
  for (int v = 0; v < 2; ++v) {
    const auto inverse_norm = load<Vector<C>>(inverse_norms + v * n);
    Vector<C> even{};
    Vector<C> odd{};
    const auto product = [&](index_t c) {
      return load<Vector<C>>(gradient + c * kBlock<C> + v * n) *
             load<Vector<C>>(tokens + c * token_stride + v * n);
    };
    index_t c = 0;
    for (; c + 2 <= channels; c += 2) {
      even += product(c);
      odd += product(c + 1);
    }
    if (c < channels) even += product(c);
    const Vector<C> direction =
        (even + odd) * direction_only<C>(inverse_norm) * inverse_norm * inverse_norm;
    for (c = 0; c < channels; ++c) {
      C* at = gradient + c * kBlock<C> + v * n;
      store(at,
            (load<Vector<C>>(at) - load<Vector<C>>(tokens + c * token_stride + v * n) * direction) *
                inverse_norm);
    }
  }
}

// total[i] += total[size + i] + total[2 size + i] + .., in this order.
template <class C>
inline void sum_parts(C* total, index_t size, index_t parts) {
  index_t i = 0;
  for (; i + kLanes<C> <= size; i += kLanes<C>) {
    auto sum = load<Vector<C>>(total + i);
    for (index_t part = 1; part < parts; ++part) sum += load<Vector<C>>(total + part * size + i);
    store(total + i, sum);
  }
  for (; i < size; ++i) {
    for (index_t part = 1; part < parts; ++part) total[i] += total[part * size + i];
  }
}

// Adds a head's partial sums in the order of the parts and writes the parameter gradients.
template <class C>
inline void write_parameter_gradients(const AggregatedAttentionBackwardParams& p,
                                      const AttentionSizes<C>& sizes, index_t parts,
                                      const BiasTable<C>& bias_table, index_t head,
                                      ParameterPartialSums<C> sums) {
  const index_t size = sums.size();
  sums.data += head * parts * size;
  sum_parts(sums.data, size, parts);
  const auto sum_at = [](const C* lanes, index_t i) {
    return sum_lanes<C>(load<Vector<C>>(lanes + i * kLanes<C>));
  };
  if (p.d_scale.present()) element<C>(p.d_scale, head) = sum_at(sums.scale(), 0);
  for (index_t c = 0; c < sizes.channels && p.d_query_embedding.present(); ++c)
    element<C>(p.d_query_embedding, head, c) = sum_at(sums.query_embedding(), c);
  for (index_t j = 0; j < sums.local; ++j) {
    if (p.d_local_bias.present())
      element<C>(p.d_local_bias, head, j) = sum_at(sums.local_bias(), j);
    if (p.d_token_bias.present())
      element<C>(p.d_token_bias, head, j) = sum_at(sums.token_bias(), j);
    for (index_t c = 0; c < sizes.channels && p.d_tokens.present(); ++c)
      element<C>(p.d_tokens, head, c, j) = sums.tokens()[j * sums.width + c];
  }
  if (sums.table == 0) return;
  const index_t columns = p.d_pool_bias.shape[2];
  for (index_t row = 0; row < bias_table.rows(); ++row) {
    __builtin_memcpy(&element<C>(p.d_pool_bias, head, row, 0),
                     sums.pool_bias() + row * bias_table.stride() + bias_table.padding(),
                     static_cast<unsigned long>(columns) * sizeof(C));
  }
}

// Adds the pooled gradients of one image and head, [P][d] of the normalised keys and then of the
// values, over the token parts, and writes d_k_pool and d_v_pool.
template <class C>
inline void write_pooled_gradients(const AggregatedAttentionBackwardParams& p,
                                   const AttentionSizes<C>& sizes, index_t token_parts,
                                   index_t batch, index_t head, C* partials) {
  sum_parts(partials, 2 * sizes.pooled * sizes.width, token_parts);
  const index_t stride = kBlock<C>;
  Scratch<C> block(sizes.channels * stride);
  Scratch<C> tokens(sizes.channels * stride);
  Scratch<C> inverse_norms(stride);
  const auto keys = row_tokens(partials, sizes.width, sizes.channels);
  const auto values =
      row_tokens(partials + sizes.pooled * sizes.width, sizes.width, sizes.channels);
  for (index_t first = 0; first < sizes.pooled; first += kBlock<C>) {
    const index_t count = smaller(kBlock<C>, sizes.pooled - first);
    if (p.d_v_pool.present()) {
      load_block<C>(values, first, 0, count, block.data(), stride);
      store_block<C>(token_major(p.d_v_pool, batch, head), first, count, block.data(), stride);
    }
    if (p.d_k_pool.present()) {
      load_block<C>(keys, first, 0, count, block.data(), stride);
      load_block<C>(token_major(p.in.k_pool, batch, head), first, 0, count, tokens.data(), stride);
      find_inverse_norms(sizes.channels, tokens.data(), stride, inverse_norms.data());
      normalisation_gradient(sizes.channels, tokens.data(), stride, inverse_norms.data(),
                             block.data());
      store_block<C>(token_major(p.d_k_pool, batch, head), first, count, block.data(), stride);
    }
  }
}

TRANSNEXT_END_LEVEL
