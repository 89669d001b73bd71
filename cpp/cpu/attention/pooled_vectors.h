// Attention to the pooled keys and values of a block of queries, in the compute type: logits, their
// softmax's weights and the weighted values, for a tile of kKeyTile keys at a time.
#pragma once

#include "cpu/attention/attention.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
class PooledVectors {
 public:
  // Lives while a thread computes with this.
  struct Unit {
    Unit() {}
  };
  // Rows that out needs, [rows][block].
  static index_t out_rows(index_t channels) { return channels; }

  explicit PooledVectors(const AttentionSizes<C>& sizes)
      : channels_(sizes.channels), tokens_(sizes), logits_(kKeyTile * kBlock<C>) {}

  void load_head(const AggregatedAttentionInputs& in, index_t batch, index_t head) {
    tokens_.load(in, batch, head);
  }

  // Takes a block's queries, which stay in place. Lanes that no query needs are skipped and keep
  // stale values.
  void start(const BlockQueries<C>& queries) {
    query_ = queries.query;
    lanes_ = lanes_in_use<C>(queries.count);
  }

  // The logits of the keys key .. key + tile - 1, with the bias if there is one; raises `largest`
  // to the largest of them.
  void find_logits(index_t key, index_t tile, BlockBias<C>& bias, Vector<C> (&largest)[2]) {
    if (bias.present()) bias.fill(logits_.data(), key, tile);
    multiply<C, 1>(tile, channels_, lanes_, {tokens_.keys(key), 1, kKeyTile}, {query_, kBlock<C>},
                   {logits_.data(), kBlock<C>},
                   LaneRows<const C>{bias.present() ? logits_.data() : nullptr, kBlock<C>});
    for (index_t m = 0; m < tile; ++m) {
      for (int v = 0; v < 2; ++v)
        largest[v] = maximum(load<Vector<C>>(&logits_[m * kBlock<C> + v * kLanes<C>]), largest[v]);
    }
  }

  // Turns the tile's logits into weights exp(logit - base) and adds these to `sum`.
  void weigh_logits(index_t tile, const Vector<C> (&base)[2], Vector<C> (&sum)[2]) {
    weigh_and_sum(logits_.data(), tile, base, sum);
  }

  // out [rows][block] = the weighted values, added to what it holds if `add`.
  void add_values(index_t key, index_t tile, bool add, C* out) {
    multiply<C, kKeyTile>(channels_, tile, lanes_, {tokens_.values(key), kKeyTile, 1},
                          {logits_.data(), kBlock<C>}, {out, kBlock<C>},
                          LaneRows<const C>{add ? out : nullptr, kBlock<C>});
  }

 private:
  index_t channels_;
  PooledTokens<C> tokens_;
  Scratch<C> logits_;  // [tile][block], then weights
  const C* query_ = nullptr;
  index_t lanes_ = 0;
};

TRANSNEXT_END_LEVEL
