// aggregated_attention backward, 16-bit types with a window of 3 x 3: what the pooled keys add to delta
// and to the queries' gradients.
//
// The weights of a chunk of pooled keys stay in a warp's registers from delta to the gradients. With
// more chunks than one, a first pass sums delta and a second one recomputes the weights.
#pragma once

#include "cuda/kernels/attention/backward/strip.cuh"
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

  template <class Parts>
  __device__ LaneTerms(const Parts& strip, const StripPatch& patch) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const StripQuery terms = strip.query_terms()[patch.query(h)];
      norm[h] = terms.norm;
      d_out_norm[h] = terms.d_out_norm;
      offset[h] = terms.offset;
      factor[h] = strip.state().scale * strip.lengths()[patch.index(h)];
    }
  }
};

template <class T, int kDim>
struct StripPooled {
  static constexpr int kTiles = kStripChunkKeys / 8;
  static constexpr int kPart = 2;  // of them, where there are more chunks than one
  static constexpr int kChunks = kDim / 8;
  using Rows = SharedRows<T, kDim>;
  using Operand = RowOperand<T, kDim>;

  const Strip<T, kDim>& strip;

  __device__ Rows keys() const { return {strip.memory + strip.at().pool_keys}; }
  __device__ Rows values() const { return {strip.memory + strip.at().pool_values}; }
  __device__ KeyTerms* terms() const {
    return strip.template part<KeyTerms>(strip.at().pool_terms);
  }
  __device__ PooledBias bias() const { return {strip.p.in.pool_bias, strip.state().head}; }
  __device__ int pool_width() const { return static_cast<int>(strip.p.in.pool_grid.width); }

  // Finds out how biases are read. All threads of the block call this together.
  __device__ void find_bias() const {
    const AggregatedAttentionInputs& in = strip.p.in;
    const bool by_offset = grows_by_steps(bias(), in, queries()) || has_dense_offsets(in);
    if (thread_index() == 0)
      strip.state().bias = !in.pool_bias.values.present() ? BiasKind::kNone
                           : by_offset                    ? BiasKind::kInPlace
                                                          : BiasKind::kOwn;
  }
  // Pooled keys that are loaded together, and whether these are all.
  __device__ int chunk() const {
    return strip.state().bias == BiasKind::kOwn ? kStripOwnBiasKeys
           : strip.pooled() <= kStripChunkKeys  ? kStripChunkKeys
                                                : kStripChunkKeys - 8;
  }
  __device__ bool stays() const { return strip.pooled() <= chunk(); }

  // Loads the pooled keys from `first` on. The block must have left the previous ones.
  __device__ void load(int first) const {
    const StripState& state = strip.state();
    load_chunk(strip.threads(), HeadRows<T>(strip.p.in.k_pool, state),
               HeadRows<T>(strip.p.in.v_pool, state), first, kStripChunkKeys,
               min(first + chunk(), strip.pooled()), keys(), values());
    commit_copies();
    wait_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (int row = strip.warp() * 16; row < kStripPoolRows; row += strip.rows() * 16)
      scale_rows(keys(), row, strip.embedding_rows(), [&](int key, float norm, float, float dot) {
        terms()[key] = {norm, dot, index_t{key_offset(first, key)} * 4};
      });
    __syncthreads();
  }

  // The offset of a query's biases.
  __device__ int query_offset(const TileCorner& corner, int row, int column, int index) const {
    const BiasKind kind = strip.state().bias;
    if (kind == BiasKind::kOwn) return index * Strip<T, kDim>::kCells;
    if (kind == BiasKind::kNone || !corner.inside(row, column)) return 0;
    return bias().query_offset(row, column, corner.token(row, column));
  }

  // Computes the biases of the step's queries and the keys from `first` on where they are not read in
  // place: where the gradients of their window's logits will lie. All threads of the block call this
  // together.
  __device__ void compute_biases(int first) const {
    if (strip.state().bias != BiasKind::kOwn) return;
    const TileCorner corner = strip.corner();
    const int count = min(kStripOwnBiasKeys, strip.pooled() - first);
    __syncthreads();
#pragma unroll 1
    for (int i = thread_index(); i < strip.rows() * kStripColumns * kStripOwnBiasKeys;
         i += strip.threads()) {
      const int query = i / kStripOwnBiasKeys;
      const int key = first + min(i % kStripOwnBiasKeys, count - 1);
      const int row = corner.top + query / kStripColumns;
      const int column = corner.left + query % kStripColumns;
      strip.d_logits()[(query + 2 * kStripColumns) * Strip<T, kDim>::kCells +
                       i % kStripOwnBiasKeys] =
          corner.inside(row, column) ? bias().at(row, column, corner.token(row, column),
                                                 key / pool_width(), key % pool_width(), key)
                                     : 0.0f;
    }
    __syncthreads();
  }

  // Adds a patch's pooled keys to its delta; `sum` becomes their part of d_qh / |d_out|. All threads of the block call this together; those of a patch outside the image with `inside` false.
  __device__ void accumulate(const StripPatch& patch, bool inside, LaneQueries& queries,
                             float (&sum)[kChunks][4]) const {
    if (stays()) {
      compute_biases(0);
      if (inside) accumulate_at_once(patch, queries, sum);
      return;
    }
    clear(sum);
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
#pragma unroll 1
      for (int first = 0; first < strip.pooled(); first += chunk()) {
        __syncthreads();
        load(first);
        compute_biases(first);
        if (!inside) continue;
        if (pass == 1 && first == 0) queries.finish_delta();
        const int count = min(chunk(), strip.pooled() - first);
#pragma unroll 1
        for (int part = 0; part < count; part += 8 * kPart) {
          float probability[kPart][4] = {};
          find_weights(patch, part, count - part, probability);
          if (pass == 0)
            add_delta(patch, part, probability, queries);
          else
            add_gradients(patch, part, queries, probability, sum);
        }
      }
    }
  }

 private:
  // The key in column or depth `index` of an MMA: lanes that read together then read neighbouring
  // entries of a dense bias.
  static __device__ int key_of(int index) { return index / 2 + index % 2 * 4; }

  __device__ Rectangle queries() const {
    const StripState& state = strip.state();
    const int left = max(state.left, 0);
    return {state.first_top, left, min(state.owned_end + 1, strip.height()) - state.first_top,
            min(state.left + kStripColumns, strip.width()) - left};
  }

  __device__ int key_offset(int first, int key) const {
    const BiasKind kind = strip.state().bias;
    if (kind == BiasKind::kNone) return 0;
    if (kind == BiasKind::kOwn) return min(key, kStripOwnBiasKeys - 1);
    const int m = min(first + key, strip.pooled() - 1);
    const Rectangle queries = this->queries();
    return bias().key_offset(m / pool_width(), m % pool_width(), m,
                             queries.top + queries.height - 1, queries.left + queries.width - 1);
  }

  // The base of all offsets, in global or in shared memory.
  __device__ const float* biases() const {
    const BiasKind kind = strip.state().bias;
    return kind == BiasKind::kInPlace ? bias().values()
           : kind == BiasKind::kOwn   ? strip.d_logits()
                                      : &strip.state().no_bias;
  }

  __device__ void accumulate_at_once(const StripPatch& patch, LaneQueries& queries,
                                     float (&sum)[kChunks][4]) const {
    float probability[kTiles][4] = {};
    find_weights(patch, 0, strip.pooled(), probability);
    add_delta(patch, 0, probability, queries);
    queries.finish_delta();
    clear(sum);
    add_gradients(patch, 0, queries, probability, sum);
  }
  static __device__ void clear(float (&sum)[kChunks][4]) {
#pragma unroll
    for (auto& four : sum) {
#pragma unroll
      for (float& value : four) value = 0.0f;
    }
  }

  // The following take the tiles of 8 keys from key `part` of the chunk on.
  // Products of a patch's rows and those of keys or values are made twice where they would occupy
  // registers meanwhile.
  struct Products {
    Operand operand;
    const Vector16<T>* from;

    __device__ Products(const StripPatch& patch, const Rows& left, const Rows& right, int part)
        : from(Operand::keys_of(right, part + key_of(thread_index() % 8), thread_index())) {
      operand.load(left.vector(patch.loaded(), thread_index() % 32 / 16));
    }
    // Those with tile t.
    __device__ void add(int t, float (&products)[4]) const {
      operand.multiply(products, from + t * 8 * Rows::kRowBytes / kVector16Bytes);
    }
  };

  // a_m of `count` keys.
  template <int kCount>
  __device__ void find_weights(const StripPatch& patch, int part, int count,
                               float (&probability)[kCount][4]) const {
    {
      const Products products(patch, strip.queries(), keys(), part);
#pragma unroll
      for (int t = 0; t < kCount; ++t) products.add(t, probability[t]);
    }
    const LaneTerms queries(strip, patch);
    const int first = thread_index() % 4;
    const KeyTerms* of_lane = terms() + part + first;
    const float* values[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) values[h] = biases() + strip.query_terms()[patch.query(h)].bias;
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
  __device__ void add_delta(const StripPatch& patch, int part,
                            const float (&probability)[kCount][4], LaneQueries& queries) const {
    const Products products(patch, strip.d_outs(), values(), part);
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      float d_weight[4] = {};
      products.add(t, d_weight);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        queries.delta[e / 2] += probability[t][e] * d_weight[e];
        queries.total[e / 2] += probability[t][e];
      }
    }
  }

  // sum += d_l_m / |d_out| kpn(m)
  template <int kCount>
  __device__ void add_gradients(const StripPatch& patch, int part, const LaneQueries& queries,
                                const float (&probability)[kCount][4],
                                float (&sum)[kChunks][4]) const {
    const int thread = thread_index();
    const KeyTerms* of_lane = terms() + part + thread % 4;
    const float unit[2] = {inverse_or_zero(strip.query_terms()[patch.query(0)].d_out_norm),
                           inverse_or_zero(strip.query_terms()[patch.query(1)].d_out_norm)};
    const Products products(patch, strip.d_outs(), values(), part);
    const Vector16<T>* rows =
        values_of(keys(), part + key_of(thread % 8) + thread / 8 % 2 * 8, thread);
    // The weights of tile t, of each half.
    const auto weights = [&](int t, int h, const float (&d_weight)[4]) {
      float of_key[2];
#pragma unroll
      for (int e = 0; e < 2; ++e)
        of_key[e] = probability[t][2 * h + e] * (d_weight[2 * h + e] - queries.delta[h]) *
                    (unit[h] * of_lane[8 * t + 4 * e].norm);
      return pack<T>(of_key[0], of_key[1]);
    };
#pragma unroll
    for (int t = 0; t < kCount; t += 2) {
      float d_weight[2][4] = {};
      products.add(t, d_weight[0]);
      if (t + 1 < kCount) {
        products.add(t + 1, d_weight[1]);
        const unsigned four[4] = {weights(t, 0, d_weight[0]), weights(t, 1, d_weight[0]),
                                  weights(t + 1, 0, d_weight[1]), weights(t + 1, 1, d_weight[1])};
        multiply_values<T, kChunks>(sum, four, rows);
      } else {
        const unsigned two[2] = {weights(t, 0, d_weight[0]), weights(t, 1, d_weight[0])};
        multiply_values<T, kChunks>(sum, two, rows);
      }
      rows += 16 * Rows::kRowBytes / kVector16Bytes;
    }
  }
};

}  // namespace transnext::device
