// Attention to the pooled keys and values as PooledVectors has it, with both products on the tile
// unit, for keys and values in bfloat16.
//
//   logits  [tile][block] = keys [tile, d] * queries [d, block]
//   out     [d][block]   += vp^T [d, tile] * weights [tile, block]
//
// Keys and queries are multiplied as they are, in bfloat16, and the products by their norms and the
// scale: nothing is rounded. What the query embedding e adds to q . k is |q| (e . k), a few channels
// more of e . k by |q|, two bfloat16 each, which are 16 of a float32's 24 bits. Queries are divided by
// powers of two, to a norm from 1/2 to 1. Weights are rounded to bfloat16, 2^-9 each, which their sum
// averages out; the softmax's denominator is of weights before that.
#pragma once

#include "cpu/attention/attention.h"
#include "cpu/gemm/tile_square.h"

#if defined(TRANSNEXT_TILES)

TRANSNEXT_BEGIN_LEVEL

class PooledTiles {
 public:
  using Unit = TileUnit;
  // Whether it has the better of PooledVectors: in a block of whole tiles, with keys enough that the
  // products outweigh waking the unit for each block (measured: docs/notes/2026-11-30-amx-attention.md),
  // and logits so small that what two bfloat16 lack of e . k moves them less than weights are rounded.
  static bool suits(const AggregatedAttentionInputs& in, const AttentionSizes<float>& sizes) {
    constexpr index_t kFewestKeys = 96;
    constexpr float kLargestQuery = 512;
    if (kWidth % kTileSide != 0 || in.q.dtype != DType::kBFloat16 || sizes.pooled < kFewestKeys)
      return false;
    const auto keys = static_cast<double>(sizes.window.cells() + sizes.pooled);
    const auto length_scale = static_cast<float>(__builtin_log(keys));
    Scratch<float> embedding(sizes.channels);
    for (index_t head = 0; head < sizes.heads; ++head) {
      load_embedding(in, head, embedding);
      float square = 0;
      for (index_t c = 0; c < sizes.channels; ++c) square += embedding[c] * embedding[c];
      const float query =
          element<const float>(in.scale, head) * length_scale * (1 + __builtin_sqrtf(square));
      if (!(__builtin_fabsf(query) <= kLargestQuery)) return false;
    }
    return true;
  }
  static index_t out_rows(index_t channels) { return round_up(channels, kSquareSide); }

  explicit PooledTiles(const AttentionSizes<float>& sizes)
      : channels_(sizes.channels),
        pooled_(sizes.pooled),
        depth_(round_up(channels_ + kMoreChannels, kTileDepth)),
        rows_(round_up(pooled_, kSquareSide)),
        keys_(sizes.heads * rows_ * depth_),
        values_(sizes.heads * sizes.key_tiles() * out_rows(channels_) * kKeyTile),
        inverse_norms_(sizes.heads * rows_),
        loaded_(sizes.heads),
        panel_(depth_ * kWidth),
        embedding_(channels_),
        scaling_(kWidth),
        query_(depth_ * kWidth),
        bias_(kKeyTile * kWidth),
        logits_(kKeyTile * kWidth),
        weights_(kKeyTile * kWidth) {
    // Beyond the last key and the last channel.
    keys_.zero();
    values_.zero();
    query_.zero();
    panel_.zero();
    for (index_t head = 0; head < sizes.heads; ++head) loaded_[head] = -1;
  }

  // Keys and values of all heads are kept: work items take turns through them.
  void load_head(const AggregatedAttentionInputs& in, index_t batch, index_t head) {
    head_ = head;
    if (loaded_[head] == batch) return;
    loaded_[head] = batch;
    const TokenView keys = token_major(in.k_pool, batch, head);
    const TokenView values = token_major(in.v_pool, batch, head);
    load_embedding(in, head, embedding_);
    const auto* key = static_cast<const BFloat16*>(keys.data);
    for (index_t m = 0; m < pooled_; ++m, key += keys.token_stride) {
      BFloat16* row = &keys_[key_at(m)];
      for (index_t c = 0; c < channels_; ++c) row[c] = key[c * keys.channel_stride];
    }
    for (index_t first = 0; first < pooled_; first += kWidth) {
      const index_t count = smaller(kWidth, pooled_ - first);
      load_block(keys, first, 0, count, panel_.data(), kWidth);
      find_inverse_norms(channels_, panel_.data(), kWidth, &inverse_norms_[norms_at(first)]);
      float products[kWidth];  // e . k
      for (int v = 0; v < 2; ++v) {
        Vector<float> sum{};
        for (index_t c = 0; c < channels_; ++c)
          sum += embedding_[c] * load<Vector<float>>(&panel_[c * kWidth + v * n]);
        store(products + v * n, sum);
      }
      for (index_t i = 0; i < count; ++i) {
        const BFloat16 high = float_to_bfloat16(products[i]);
        BFloat16* more = &keys_[key_at(first + i) + channels_];
        more[0] = more[2] = high;
        more[1] = more[3] = float_to_bfloat16(products[i] - bfloat16_to_float(high));
      }
      load_block(values, first, 0, count, panel_.data(), kWidth);
      BFloat16* to = &values_[values_at(first / kKeyTile * kKeyTile) + first % kKeyTile];
      for (index_t c = 0; c < channels_; ++c)
        store_row(&panel_[c * kWidth], 1, kWidth, to + c * kKeyTile);
    }
  }

  TRANSNEXT_PHASE void start(const BlockQueries<float>& queries) {
    one_column_ = queries.count <= kTileSide;
    for (int v = 0; v < 2; ++v) {
      const auto inverse = load<Vector<float>>(queries.inverse_norms + v * n);
      const auto power = reinterpret_cast<Vector<float>>(  // of two
          reinterpret_cast<Mask<float>>(inverse) & 0x7f800000);
      const Vector<float> rest = power > 0.0f ? inverse / power : broadcast(1.0f);
      store(&scaling_[v * n], load<Vector<float>>(queries.scaling + v * n) * rest);
      float* panel = panel_.data() + v * n;
      for (index_t c = 0; c < channels_; ++c)
        store(panel + c * kWidth, load<Vector<float>>(queries.raw + c * kWidth + v * n) * power);
      const Vector<float> norm = 1.0f / rest;
      const auto high = reinterpret_cast<Vector<float>>(to_bfloat16_pairs(norm, norm) << 16);
      for (index_t i = 0; i < kMoreChannels; ++i)
        store(panel + (channels_ + i) * kWidth, i < kMoreChannels / 2 ? high : norm - high);
      for (index_t c = 0; c < channels_ + kMoreChannels; c += 2)
        store(&query_[c * kWidth + 2 * v * n],
              to_bfloat16_pairs(load<Vector<float>>(panel + c * kWidth),
                                load<Vector<float>>(panel + (c + 1) * kWidth)));
    }
  }

  // Products of all keys of the tile, then what is added to them: the less often a bias is asked for
  // keys, the better where it is interpolated.
  TRANSNEXT_PHASE void find_logits(index_t key, index_t tile, BlockBias<float>& bias,
                                   Vector<float> (&largest)[2]) {
    const SquarePairs query{query_.data(), 2 * kWidth};
    for (index_t first = 0; first < tile; first += kSquareSide)
      multiply<false>({&keys_[key_at(key + first)], depth_}, query, depth_,
                      &logits_[first * kWidth]);
    for (int v = 0; v < 2; ++v) {
      AddBias add{load<Vector<float>>(&scaling_[v * n]), &inverse_norms_[norms_at(key)],
                  &logits_[v * n], largest[v]};
      if (bias.present()) {
        add = bias.read(v, key, tile, bias_.data(), add);
      } else {
        for (index_t i = 0; i < tile; ++i) add(Vector<float>{});
      }
      largest[v] = add.largest;
      if (v == 0 && bias.takes_long()) Unit::keep_awake();
    }
  }

  TRANSNEXT_PHASE void weigh_logits(index_t tile, const Vector<float> (&base)[2],
                                    Vector<float> (&sum)[2]) {
    constexpr float kLog2E = 1.44269504f;
    const Vector<float> from[2] = {base[0] * kLog2E, base[1] * kLog2E};  // in registers
    Vector<float> partial[2] = {sum[0], sum[1]};
    const float* logits = logits_.data();
    BFloat16* pairs = weights_.data();
    const auto some = [&](auto& weights) {  // of two keys or of one
      constexpr int kCount = sizeof(weights) / sizeof(Vector<float>);
      for (int i = 0; i < kCount; ++i)
        weights[i] = load<Vector<float>>(logits + i * n) * kLog2E - from[i % 2];
      power_of_two(weights);
      for (int v = 0; v < 2; ++v) {
        Vector<float> second{};
        if constexpr (kCount > 2) second = weights[2 + v];
        partial[v] += weights[v] + second;
        store(pairs + 2 * v * n, to_bfloat16_pairs(weights[v], second));
      }
      logits += kCount * n;
      pairs += 2 * kWidth;
    };
    Vector<float> two_keys[4];
    Vector<float> one_key[2];
    index_t m = 0;
    for (; m + 2 <= tile; m += 2) {
      some(two_keys);
      if (m % (kKeyTile / 2) == 0) Unit::keep_awake();
    }
    if (m < tile) some(one_key);
    sum[0] = partial[0];
    sum[1] = partial[1];
    const index_t end = round_up(tile, 2) * kWidth;
    __builtin_memset(
        static_cast<void*>(&weights_[end]), 0,
        static_cast<unsigned long>(round_up(tile, kTileDepth) * kWidth - end) * sizeof(BFloat16));
  }

  TRANSNEXT_PHASE void add_values(index_t key, index_t tile, bool add, float* out) {
    const index_t rows = out_rows(channels_);
    const index_t depth = round_up(tile, kTileDepth);
    const SquarePairs weights{weights_.data(), 2 * kWidth};
    for (index_t c = 0; c < rows; c += kSquareSide) {
      const SquareRows values{&values_[values_at(key) + c * kKeyTile], kKeyTile};
      if (add) {
        multiply<true>(values, weights, depth, out + c * kWidth);
      } else {
        multiply<false>(values, weights, depth, out + c * kWidth);
      }
    }
  }

 private:
  static constexpr int n = kLanes<float>;
  static constexpr index_t kWidth = kBlock<float>;
  static constexpr index_t kMoreChannels = 4;  // |q| (e . k), high and low parts by each other

  // From the products of keys and a vector of queries to logits, key by key.
  struct AddBias {
    Vector<float> scaling;
    const float* inverse_norm;
    float* at;
    Vector<float> largest;

    void operator()(Vector<float> bias) {
      const Vector<float> logit = load<Vector<float>>(at) * (scaling * *inverse_norm++) + bias;
      store(at, logit);
      largest = maximum(logit, largest);
      at += kWidth;
    }
  };

  template <bool kAdd>
  void multiply(const SquareRows& left, const SquarePairs& right, index_t depth, float* sums) {
    if constexpr (kWidth > kTileSide) {
      if (!one_column_) return multiply_square<2, kAdd>(left, right, depth, sums, kWidth);
    }
    multiply_square<1, kAdd>(left, right, depth, sums, kWidth);
  }

  // Where a key of the head is.
  index_t key_at(index_t key) const { return (head_ * rows_ + key) * depth_; }
  index_t norms_at(index_t key) const { return head_ * rows_ + key; }
  index_t values_at(index_t key) const {  // the first one of a tile
    return (head_ * round_up(pooled_, kKeyTile) + key) * out_rows(channels_);
  }

  index_t channels_;
  index_t pooled_;                // P
  index_t depth_;                 // d and kMoreChannels, in whole tiles
  index_t rows_;                  // P, in whole blocks
  Scratch<BFloat16> keys_;        // [h][P][depth], not normalised
  Scratch<BFloat16> values_;      // [h][tile][rows of out][kKeyTile]
  Scratch<float> inverse_norms_;  // [h][P]
  Scratch<index_t> loaded_;       // [h] the image whose they are
  Scratch<float> panel_;          // [depth][block]
  Scratch<float> embedding_;      // [d]
  Scratch<float> scaling_;        // [block] from products with a key of norm 1 to logits
  Scratch<BFloat16> query_;       // [depth / 2][block][2]
  Scratch<float> bias_;           // [square][block]
  Scratch<float> logits_;         // [tile][block]
  Scratch<BFloat16> weights_;     // [tile / 2][block][2]
  bool one_column_ = false;       // of tiles has all queries
  index_t head_ = 0;
};

TRANSNEXT_END_LEVEL

#endif
