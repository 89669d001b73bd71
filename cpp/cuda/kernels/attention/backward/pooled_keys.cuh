// aggregated_attention backward, the tokens' side: what the pooled keys add to delta and to the queries'
// gradients.
//
// The weights of a chunk of pooled keys stay in a warp's registers from delta to the gradients. With
// more chunks than one, a first pass sums delta and a second one recomputes the weights.
#pragma once

#include "cuda/kernels/attention/backward/block.cuh"
#include "cuda/kernels/attention/row_products.cuh"
#include "cuda/kernels/bias/extrapolated_bias.cuh"
#include "cuda/kernels/bias/pooled_bias.cuh"

namespace transnext::device {

// delta of a lane's two queries: sums of this lane's keys, later of all four lanes'.
struct LaneQueries {
  float delta[2] = {}, total[2] = {};

  // Divides by the sum of the probabilities, which is 1 up to the rounding of large logits: D -
  // delta of a key that has all the weight is then 0 up to the same rounding.
  __device__ void finish_delta() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      delta[h] = sum_of_four(delta[h]);
      total[h] = sum_of_four(total[h]);
      if (total[h] > 0.0f) delta[h] *= 1.0f / total[h];
    }
  }
};

// The terms of a lane's two queries. They are read again where they are needed, so that they occupy no
// registers elsewhere.
struct LaneTerms {
  float norm[2], factor[2], offset[2], d_out_norm[2];

  template <class Block, class Patch>
  __device__ LaneTerms(const Block& block, const Patch& patch) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const BackwardQuery terms = block.query_terms()[patch.query(h)];
      norm[h] = terms.norm;
      d_out_norm[h] = terms.d_out_norm;
      offset[h] = terms.offset;
      factor[h] = block.state().scale * block.lengths()[patch.index(h)];
    }
  }
};

// Of a block that is a Strip (strip.cuh) or a BackwardTile (tile.cuh), and a warp's 16 queries, a patch of it.
template <class Block>
struct PooledKeys {
  using T = typename Block::Element;
  static constexpr int kDim = Block::kChannels;
  static constexpr int kTiles = kPooledChunkKeys / 8;
  static constexpr int kPart = 2;  // of them, where there are more chunks than one
  static constexpr int kChunks = kDim / 8;
  using Rows = typename Block::Rows;
  using Products = RowProducts<T, kDim>;

  const Block& block;

  // Finds out how biases are read. All threads of the block call this together.
  __device__ void find_bias() const {
    const AggregatedAttentionInputs& in = block.p.in;
    const bool by_offset = grows_by_steps(bias(), in, block.seen()) || has_dense_offsets(in);
    if (thread_index() == 0)
      block.state().bias = !in.pool_bias.values.present() ? BiasKind::kNone
                           : by_offset                    ? BiasKind::kInPlace
                                                          : BiasKind::kOwn;
  }
  // Pooled keys that are loaded together, and whether these are all.
  __device__ int chunk() const {
    return block.state().bias == BiasKind::kOwn ? kPooledOwnBiasKeys
           : block.pooled() <= kPooledChunkKeys ? kPooledChunkKeys
                                                : kPooledChunkKeys - 8;
  }
  __device__ bool stays() const { return block.pooled() <= chunk(); }

  // Loads the pooled keys from `first` on. The block must have left the previous ones.
  __device__ void load(int first) const {
    const TileState& state = block.state();
    load_chunk(block.threads(), HeadRows<T>(block.p.in.k_pool, state),
               HeadRows<T>(block.p.in.v_pool, state), first, kPooledChunkKeys,
               min(first + chunk(), block.pooled()), keys(), values());
    commit_copies();
    wait_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (int row = block.warp() * 16; row < kPooledChunkRows; row += block.threads() / 2)
      scale_rows(keys(), row, block.scaling_embedding(),
                 [&](int key, float norm, float, float dot) {
                   terms()[key] = {norm, dot, index_t{key_offset(first, key)} * 4};
                 });
    __syncthreads();
  }

  // The offset of a query's biases.
  __device__ int query_offset(const TileCorner& corner, int row, int column, int index) const {
    const BiasKind kind = block.state().bias;
    if (kind == BiasKind::kOwn) return index * kOwnBiasStride;
    if (kind == BiasKind::kNone || !corner.inside(row, column)) return 0;
    return bias().query_offset(row, column, corner.token(row, column));
  }

  // Computes the biases of the block's queries and the keys from `first` on where they are not read in
  // place. All threads of the block call this together.
  __device__ void compute_biases(int first) const {
    if (block.state().bias != BiasKind::kOwn) return;
    const TileCorner corner = block.corner();
    for_own_biases(first, [&](int, const Rectangle::Cell& cell, int key, float& value) {
      key = min(key, block.pooled() - 1);  // others are read too
      value = corner.inside(cell.row, cell.column)
                  ? bias().at(cell.row, cell.column, corner.token(cell.row, cell.column),
                              key / pool_width(), key % pool_width(), key)
                  : 0.0f;
    });
  }

  // Adds the gradients of biases that were computed, which are in their place, to the table. All threads
  // of the block call this together.
  __device__ void add_biases(int first) const {
    if constexpr (Block::kOwnsPooled) {
      if (!block.plan.table_atomics || block.state().bias != BiasKind::kOwn) return;
      for_own_biases(first, [&](int query, const Rectangle::Cell& cell, int key, float& gradient) {
        if (key < block.pooled() && block.owns(query))
          bias().add_to(block.table(), cell.row, cell.column, key / pool_width(),
                        key % pool_width(), gradient);
      });
    }
  }

  // Adds a patch's pooled keys to its delta; where `owned`, `sum` becomes their part of d_qh / |d_out|.
  // All threads of the block call this together; those of a patch that is not there with `inside` false.
  template <class Patch>
  __device__ void accumulate(const Patch& patch, bool inside, bool owned, LaneQueries& queries,
                             float (&sum)[kChunks][4]) const {
    if constexpr (Block::kAtOnce) {
      if (stays()) {
        compute_biases(0);
        if (inside) accumulate_at_once(patch, owned, queries, sum);
        add_biases(0);
        return;
      }
    }
    clear(sum);
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll 1
      for (int first = 0; first < block.pooled(); first += chunk()) {
        if (Block::kAtOnce || !stays()) {
          __syncthreads();
          load(first);
        }
        compute_biases(first);
        if (pass == 1 && first == 0) queries.finish_delta();
        const int count = min(chunk(), block.pooled() - first);
        if (pass == 0 ? inside : owned) {
#pragma unroll 1
          for (int part = 0; part < count; part += 8 * kPart) {
            float probability[kPart][4] = {};
            find_weights(patch, part, count - part, probability);
            const OutputProducts<kPart> d_weights(block, patch, part);
            if (pass == 0)
              add_delta(d_weights, probability, queries);
            else
              add_gradients(patch, d_weights, first, part, queries, probability, sum);
          }
        }
        if (pass == 1) add_biases(first);
      }
    }
  }

 private:
  // Calls visit(query, cell, key, value) for the biases of the block's queries and the keys from `first` on
  // that have room in shared memory. All threads of the block call this together.
  template <class Visit>
  __device__ void for_own_biases(int first, const Visit& visit) const {
    __syncthreads();
#pragma unroll 1
    for (int i = thread_index(); i < block.step_queries() * kPooledOwnBiasKeys;
         i += block.threads()) {
      const int query = i / kPooledOwnBiasKeys;
      const int key = i % kPooledOwnBiasKeys;
      visit(query, block.cell_of(query), first + key,
            block.own_biases()[block.index_of(query) * kOwnBiasStride + key]);
    }
    __syncthreads();
  }

  __device__ Rows keys() const { return block.pool_keys(); }
  __device__ Rows values() const { return block.pool_values(); }
  __device__ KeyTerms* terms() const { return block.pool_terms(); }
  __device__ PooledBias bias() const { return {block.p.in.pool_bias, block.state().head}; }
  __device__ int pool_width() const { return static_cast<int>(block.p.in.pool_grid.width); }

  __device__ int key_offset(int first, int key) const {
    const BiasKind kind = block.state().bias;
    if (kind == BiasKind::kNone) return 0;
    if (kind == BiasKind::kOwn) return min(key, kPooledOwnBiasKeys - 1);
    const int m = min(first + key, block.pooled() - 1);
    const Rectangle queries = block.seen();
    return bias().key_offset(m / pool_width(), m % pool_width(), m,
                             queries.top + queries.height - 1, queries.left + queries.width - 1);
  }

  // The base of all offsets, in global or in shared memory.
  __device__ const float* biases() const {
    const BiasKind kind = block.state().bias;
    return kind == BiasKind::kInPlace ? bias().values()
           : kind == BiasKind::kOwn   ? block.own_biases()
                                      : &block.state().no_bias;
  }

  template <class Patch>
  __device__ void accumulate_at_once(const Patch& patch, bool owned, LaneQueries& queries,
                                     float (&sum)[kChunks][4]) const {
    float probability[kTiles][4] = {};
    find_weights(patch, 0, block.pooled(), probability);
    const OutputProducts<kTiles> d_weights(block, patch, 0);
    add_delta(d_weights, probability, queries);
    queries.finish_delta();
    if (!owned) return;
    clear(sum);
    add_gradients(patch, d_weights, 0, 0, queries, probability, sum);
  }
  static __device__ void clear(float (&sum)[kChunks][4]) {
#pragma unroll
    for (auto& four : sum) {
#pragma unroll
      for (float& value : four) value = 0.0f;
    }
  }

  // The following take the tiles of 8 keys from key `part` of the chunk on.
  // D_m of kCount tiles. Tensor cores compute them twice: kept, they would need more registers than are
  // free.
  template <int kCount, bool kKept = !OnTensorCores<T>::value>
  struct OutputProducts {
    Products products;
    typename Products::Right values;

    template <class Patch>
    __device__ OutputProducts(const Block& block, const Patch& patch, int part)
        : products({block.d_outs(), [&](int i) { return patch.row(i); }}),
          values(block.pool_values(), part) {}
    __device__ void find(int t, float (&d_weight)[4]) const {
#pragma unroll
      for (float& value : d_weight) value = 0.0f;
      products.multiply(values, t, d_weight);
    }
  };
  template <int kCount>
  struct OutputProducts<kCount, true> {
    float kept[kCount][4] = {};

    template <class Patch>
    __device__ OutputProducts(const Block& block, const Patch& patch, int part) {
      const Products products({block.d_outs(), [&](int i) { return patch.row(i); }});
      products.multiply(typename Products::Right(block.pool_values(), part), kept);
    }
    __device__ void find(int t, float (&d_weight)[4]) const {
#pragma unroll
      for (int e = 0; e < 4; ++e) d_weight[e] = kept[t][e];
    }
  };

  // a_m of `count` keys.
  template <class Patch, int kCount>
  __device__ void find_weights(const Patch& patch, int part, int count,
                               float (&probability)[kCount][4]) const {
    {
      const Products products({block.queries(), [&](int i) { return patch.row(i); }});
      products.multiply(typename Products::Right(keys(), part), probability);
    }
    const LaneTerms queries(block, patch);
    const int first = thread_index() % 4;
    const KeyTerms* of_lane = terms() + part + first;
    const float* values[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) values[h] = biases() + block.query_terms()[patch.query(h)].bias;
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      // Products with keys that are not there are zero. The branches keep compilers from loading all
      // biases at once, into more registers than are free.
      if (t > 0 && t % 2 == 0 && 8 * t >= count) break;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const KeyTerms key = of_lane[8 * t + 4 * e];
        const bool there = 8 * t + 4 * e < count - first;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float& weight = probability[t][2 * h + e];
          const float logit =
              (weight * queries.norm[h] + key.embedding) * (key.norm * queries.factor[h]) +
              key.bias_of(values[h]);
          const float value = exp2_fast(logit * kLog2E + queries.offset[h]);
          weight = there ? value : 0.0f;
        }
      }
    }
  }

  template <int kCount>
  __device__ void add_delta(const OutputProducts<kCount>& d_weights,
                            const float (&probability)[kCount][4], LaneQueries& queries) const {
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      float d_weight[4];
      d_weights.find(t, d_weight);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        queries.delta[e / 2] += probability[t][e] * d_weight[e];
        queries.total[e / 2] += probability[t][e];
      }
    }
  }

  // sum += d_l_m / |d_out| kpn(m)
  template <class Patch, int kCount>
  __device__ void add_gradients(const Patch& patch, const OutputProducts<kCount>& d_weights,
                                int first, int part, const LaneQueries& queries,
                                const float (&probability)[kCount][4],
                                float (&sum)[kChunks][4]) const {
    const KeyTerms* of_lane = terms() + part + thread_index() % 4;
    const float unit[2] = {inverse_or_zero(block.query_terms()[patch.query(0)].d_out_norm),
                           inverse_or_zero(block.query_terms()[patch.query(1)].d_out_norm)};
    const WeightedRows<T, kDim> rows(keys(), part);
    const typename Block::PooledWeights weights(block, patch, (first + part) / 8);
    const auto find_gradients = [&](int t, float (&gradients)[4]) {
      d_weights.find(t, gradients);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        gradients[e] = probability[t][e] * (gradients[e] - queries.delta[e / 2]);
      weights.add(t, of_lane + 8 * t, gradients, probability[t]);
#pragma unroll
      for (int e = 0; e < 4; ++e) gradients[e] *= unit[e / 2] * of_lane[8 * t + 4 * (e % 2)].norm;
    };
#pragma unroll
    for (int t = 0; t < kCount; t += 2) {
      float first[4];
      find_gradients(t, first);
      if (t + 1 < kCount) {
        float second[4];
        find_gradients(t + 1, second);
        rows.add(t, first, second, sum);
      } else {
        rows.add(t, first, sum);
      }
    }
  }
};

}  // namespace transnext::device
