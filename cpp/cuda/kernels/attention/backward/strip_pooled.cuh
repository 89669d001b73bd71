// aggregated_attention backward, 16-bit types with a window of 3 x 3: the gradients of the pooled keys,
// where a block has room for sums over all its steps:
//
//   d_kpn(m) = sum_n d_l_m(n) qh(n),   d_vp(m) = sum_n a_m(n) d_out(n)
//
// Queries leave their weights in shared memory, rounded to T: a_m, and d_l_m divided by what makes numbers
// of T of it, as for the keys of a window. A warp then takes eight pooled keys and multiplies the weights
// of a row's 16 queries with unit queries, with output gradients and, for the query embedding, with ones.
// Strips leave their sums in the workspace as slices of the queries do elsewhere (pooled.cuh).
//
// Per query and head: flops 4 (d + 8) P, no bytes.
#pragma once

#include "cuda/kernels/attention/backward/strip.cuh"
#include "cuda/kernels/bias/pooled_bias.cuh"

namespace transnext::device {

// What a patch's queries leave for the pooled keys, by lane: zeros where the block does not own them.
template <class Parts>
struct StripPooledWeights {
  using T = typename Parts::Element;

  int keys;          // that are there
  unsigned* words;   // of the first query
  unsigned mask[2];  // all bits of owned queries
  float down[2];     // of the logits' gradients
  // The gradients of the queries' biases go where the biases came from: in the table, for so many keys
  // from the lane's first one on, or in the place of the queries' own.
  float* table[2] = {};
  int table_keys[2] = {};
  float* own = nullptr;

  // Of the pooled keys from tile `first` on.
  template <class Patch>
  __device__ StripPooledWeights(const Parts& strip, const Patch& patch, int first) {
    keys = strip.pooled() - 8 * first;
    const float scaling = strip.state().scale * inverse_or_zero(strip.unit());
    const int lane_key = thread_index() % 4;
    words = strip.pooled_weights(patch.query(0)) + 4 * first + lane_key;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool owned = strip.owns(patch.query(h));
      mask[h] = owned ? ~0u : 0u;
      down[h] = owned ? scaling * strip.lengths()[patch.index(h)] : 0.0f;
      if (!(owned && strip.plan.table_atomics && strip.state().bias == BiasKind::kInPlace))
        continue;
      table[h] = strip.table() + strip.query_terms()[patch.query(h)].bias;
      table_keys[h] = keys - lane_key;
    }
    if (strip.plan.table_atomics && strip.state().bias == BiasKind::kOwn)
      own = strip.own_biases() + patch.index(0) * kOwnBiasStride + lane_key;
  }

  // Adds the logits' gradients and a_m of tile `t` of these, of which `of_lane` are the lane's terms.
  __device__ void add(int t, const KeyTerms* of_lane, const float (&gradients)[4],
                      const float (&probability)[4]) const {
    if (8 * t >= keys) return;
    constexpr int kSecond = kStripColumns * kStripWeightBytes / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      unsigned* to = words + 4 * t + h * kSecond;
      to[0] = pack<T>(gradients[2 * h] * down[h], gradients[2 * h + 1] * down[h]);
      to[Parts::kPooledWeights] = pack<T>(probability[2 * h], probability[2 * h + 1]) & mask[h];
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const index_t offset = of_lane[4 * e].bias;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        auto* to = reinterpret_cast<float*>(reinterpret_cast<char*>(table[h]) + offset);
        if (8 * t + 4 * e < table_keys[h]) atomicAdd(to, gradients[2 * h + e]);
      }
    }
    // One tile at a time has biases that were computed.
    static_assert(kPooledOwnBiasKeys == 8);
    if (t > 0 || own == nullptr) return;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      own[e / 2 * kStripColumns * kOwnBiasStride + e % 2 * 4] = gradients[e];
  }
};

// Rows of queries as left operands: products of their channels with the weights of 16 queries, of eight
// keys. Behind the channels is a chunk of ones.
template <class Parts>
class ChannelsOfRows {
 public:
  using T = typename Parts::Element;
  using Rows = typename Parts::Rows;
  static constexpr int kChunks = Parts::kChunks;
  static constexpr int kWhole = kChunks / 2;  // pairs of chunks without ones

  // Of 16 rows from `first` on.
  __device__ ChannelsOfRows(const Rows& rows, int first, const Vector16<T>* ones) {
    const int lane = thread_index() % 32;
    const bool second = lane / 8 % 2 != 0;  // loads the second chunk of a pair
    const int row = first + lane % 8 + lane / 16 * 8;
    pairs_ = rows.vector(row, second ? 1 : 0);
    last_ = second ? ones : rows.vector(row, kChunks - 1);
    step_ = second ? 0 : kStep;
  }

  // products += channels right, two chunks to a product,
  template <int kPairs>
  __device__ void multiply(const unsigned (&right)[2], float (&products)[kPairs][4]) const {
    unsigned left[4];
#pragma unroll
    for (int pair = 0; pair < kWhole; ++pair) {
      ldmatrix_x4_trans(left, pairs_ + 2 * pair);
      mma_m16n8k16(products[pair], left, right, T{});
    }
    if constexpr (kChunks % 2 != 0)
      ldmatrix_x4_trans(left, last_);
    else
      left[0] = left[1] = left[2] = left[3] = pack<T>(1.0f, 1.0f);
    if constexpr (kPairs > kWhole) mma_m16n8k16(products[kWhole], left, right, T{});
  }
  // and the same of the next 16 rows.
  __device__ void move() {
    pairs_ += kStep;
    last_ += step_;
  }

 private:
  static constexpr int kStep = 16 * Rows::kRowBytes / kVector16Bytes;
  const Vector16<T>* pairs_;
  const Vector16<T>* last_;
  int step_;
};

template <class Parts>
struct StripPooled {
  using T = typename Parts::Element;
  static constexpr int kChunks = Parts::kChunks;

  const Parts& strip;

  // By one warp, before the others need it.
  __device__ void begin() const {
    const int lane = thread_index() % 32;
    if (lane < 8) from_float(1.0f, strip.ones()->values[lane]);
  }

  // Adds a step's queries.
  __device__ void add() const {
    const int lane = thread_index() % 32;
    const float unit = strip.unit();
    const int row = strip.first_owned_row();
    const int end = strip.end_owned_row();
#pragma unroll 1
    for (int t = strip.warp(); 8 * t < strip.pooled(); t += strip.rows()) {
      float d_key[kChunks / 2 + 1][4] = {}, d_value[(kChunks + 1) / 2][4] = {};
      const int first = (row + 2) * kStripColumns;
      ChannelsOfRows<Parts> queries(strip.queries(), first, strip.ones());
      ChannelsOfRows<Parts> d_outs(strip.d_outs(), first, strip.ones());
      // Lanes 0 to 15 load d_l_m of 16 queries, the others a_m.
      const unsigned* weights = strip.pooled_weights(row * kStripColumns + lane % 16) + 4 * t +
                                (lane < 16 ? 0 : Parts::kPooledWeights);
#pragma unroll 1
      for (int i = row; i < end; ++i) {
        unsigned right[4];
        ldmatrix_x4_trans(right, weights);
        queries.multiply({right[0], right[1]}, d_key);
        d_outs.multiply({right[2], right[3]}, d_value);
        queries.move();
        d_outs.move();
        weights += kStripColumns * kStripWeightBytes / 4;
      }
      float4* sums = strip.pooled_sums(t) + lane;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        float4& sum = sums[32 * i];
        sum.x += d_key[i / 2][i % 2 * 2] * unit;
        sum.y += d_key[i / 2][i % 2 * 2 + 1] * unit;
        sum.z += d_value[i / 2][i % 2 * 2];
        sum.w += d_value[i / 2][i % 2 * 2 + 1];
      }
      if (lane < 4) {
        constexpr int kOnes = kChunks;
        float2& sum = strip.pooled_embedded(t)[lane];
        sum.x += d_key[kOnes / 2][kOnes % 2 * 2] * unit;
        sum.y += d_key[kOnes / 2][kOnes % 2 * 2 + 1] * unit;
      }
    }
  }

  // Stores the sums, each by the lane that has added them up.
  __device__ void store() const {
    const AggregatedAttentionInputs& in = strip.p.in;
    const int lane = thread_index() % 32;
    const int channels = static_cast<int>(in.q.shape[3]);
    const auto heads = static_cast<unsigned>(in.q.shape[2]);
    const unsigned slice = blockIdx.x / heads % static_cast<unsigned>(strip.plan.slices);
    float* of_head = strip.workspace +
                     strip.plan.pooled_sums_of(in, slice, strip.state().batch, strip.state().head);
    __syncwarp();  // the sums of ones are four lanes'
#pragma unroll 1
    for (int t = strip.warp(); 8 * t < strip.pooled(); t += strip.rows()) {
      const float2 embedded = strip.pooled_embedded(t)[lane % 4];
#pragma unroll 1
      for (int i = 0; i < kChunks; ++i) {
        const float4 sum = strip.pooled_sums(t)[32 * i + lane];
        const int c = 8 * i + lane / 4;
        const float embedding = strip.embedding()[c];
        const float d_keys[2] = {sum.x + embedded.x * embedding, sum.y + embedded.y * embedding};
        const float d_values[2] = {sum.z, sum.w};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = 8 * t + product_row(lane % 4 * 2 + e);
          if (key >= strip.pooled() || c >= channels) continue;
          float* to = of_head + key * 2 * channels + c;
          to[0] = d_keys[e];
          to[channels] = d_values[e];
        }
      }
    }
  }
};

}  // namespace transnext::device
