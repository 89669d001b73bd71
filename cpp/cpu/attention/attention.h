// Common to the forward and the backward of aggregated attention: sizes, tiles of pooled keys and
// values, the length scale of the logits, and the logarithm for the softmax's sum.
#pragma once

#include "cpu/attention/window_cells.h"
#include "cpu/attention/work_items.h"
#include "cpu/bias/pool_bias.h"
#include "cpu/gemm/small_gemm.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/math.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

// The query embedding of a head, zeros without one.
template <class C>
inline void load_embedding(const AggregatedAttentionInputs& in, index_t head, Scratch<C>& to) {
  for (index_t c = 0; c < to.size(); ++c)
    to[c] = in.query_embedding.present() ? element<const C>(in.query_embedding, head, c) : C(0);
}

constexpr index_t kKeyTile =
    64;  // pooled keys whose logits are held at a time: [64][block], 4 KiB of floats

// The lanes of a block that GEMMs compute: a multiple of half a vector.
template <class C>
inline index_t lanes_in_use(index_t count) {
  constexpr index_t n = kLanes<C>;
  return count > n ? 2 * n : count > n / 2 ? n : n / 2;
}

template <class C>
struct AttentionSizes {
  explicit AttentionSizes(const AggregatedAttentionInputs& in)
      : batches(in.q.shape[0]),
        tokens(in.grid.size()),
        heads(in.q.shape[2]),
        channels(in.q.shape[3]),
        width(round_up(channels, kLanes<C> / 2)),
        pooled(in.pool_grid.size()),
        window{in.grid, in.window_size} {}

  index_t key_tiles() const { return (pooled + kKeyTile - 1) / kKeyTile; }

  index_t batches;
  index_t tokens;  // N
  index_t heads;
  index_t channels;  // d
  index_t width;     // d, padded to half vectors: the width of a row
  index_t pooled;    // P
  Window window;
};

// Calls use(offset into the logits, weights) with the weights exp(logit - base) of two keys or of
// one, two vectors each, for the logits of a block, [keys][block]. base is at least the logit.
template <class C, class Use>
inline void for_each_weight(const C* logits, index_t keys, const Vector<C> (&base)[2], Use&& use) {
  constexpr int n = kLanes<C>;
  const Vector<C> from[2] = {base[0], base[1]};  // in registers
  index_t at = 0;
  const auto some = [&](auto& weights) {
    constexpr int kCount = sizeof(weights) / sizeof(Vector<C>);
    for (int i = 0; i < kCount; ++i)
      weights[i] = load<Vector<C>>(logits + at + i * n) - from[i % 2];
    exp_bounded<C>(weights);
    use(at, weights);
    at += kCount * n;
  };
  Vector<C> two_keys[4];
  Vector<C> one_key[2];
  for (; keys >= 2; keys -= 2) some(two_keys);
  if (keys > 0) some(one_key);
}

// Turns logits into weights. Calls use(offset, 0 or 1 for the block's vectors, weight) for every
// vector.
template <class C, class Use>
inline void weigh(C* logits, index_t keys, const Vector<C> (&base)[2], Use&& use) {
  for_each_weight(logits, keys, base, [&](index_t at, const auto& weights) {
    constexpr int kCount = sizeof(weights) / sizeof(Vector<C>);
    for (int i = 0; i < kCount; ++i) {
      store(logits + at + i * kLanes<C>, weights[i]);
      use(at + i * kLanes<C>, i % 2, weights[i]);
    }
  });
}

template <class C>
inline void weigh(C* logits, index_t keys, const Vector<C> (&base)[2]) {
  weigh(logits, keys, base, [](index_t, int, Vector<C>) {});
}

// The same, and adds the weights to `sum`.
template <class C>
inline void weigh_and_sum(C* logits, index_t keys, const Vector<C> (&base)[2],
                          Vector<C> (&sum)[2]) {
  Vector<C> partial[2] = {sum[0], sum[1]};  // in registers
  weigh(logits, keys, base, [&](index_t, int v, Vector<C> weight) { partial[v] += weight; });
  sum[0] = partial[0];
  sum[1] = partial[1];
}

// A block's queries, tokens in the lanes: qh = (q / |q| + query_embedding) scaling.
template <class C>
struct BlockQueries {
  const C* raw;            // [d][block] q
  const C* inverse_norms;  // [block] 1 / |q|
  const C* scaling;        // [block]
  const C* query;          // [d][block] qh
  index_t count;
};

// The pooled keys (normalised) and values of one image and head in the compute type, as panels of
// kKeyTile keys [tile][d][kKeyTile]: every block of queries reads them, so they are converted and
// normalised once per work item. A tile serves both GEMMs: a(key, channel) has row stride 1,
// a(channel, key) row stride kKeyTile.
template <class C>
class PooledTokens {
 public:
  explicit PooledTokens(const AttentionSizes<C>& sizes)
      : channels_(sizes.channels),
        pooled_(sizes.pooled),
        keys_(sizes.key_tiles() * kKeyTile * channels_),
        values_(sizes.key_tiles() * kKeyTile * channels_) {}

  void load(const AggregatedAttentionInputs& in, index_t batch, index_t head) {
    if (batch == batch_ && head == head_) return;
    batch_ = batch;
    head_ = head;
    const TokenView key_tokens = token_major(in.k_pool, batch, head);
    const TokenView value_tokens = token_major(in.v_pool, batch, head);
    for (index_t first = 0; first < pooled_; first += kBlock<C>) {
      const index_t count = smaller(kBlock<C>, pooled_ - first);
      C* keys = &keys_[at(first)];
      load_block(key_tokens, first, 0, count, keys, kKeyTile);
      normalise_block(channels_, keys, kKeyTile);
      load_block(value_tokens, first, 0, count, &values_[at(first)], kKeyTile);
    }
  }

  // The panel of `key` and the keys after it in its tile.
  const C* keys(index_t key) const { return keys_.data() + at(key); }
  const C* values(index_t key) const { return values_.data() + at(key); }

 private:
  index_t at(index_t key) const { return key / kKeyTile * kKeyTile * channels_ + key % kKeyTile; }

  index_t channels_;
  index_t pooled_;  // P
  Scratch<C> keys_;
  Scratch<C> values_;
  index_t batch_ = -1;  // of the tokens loaded
  index_t head_ = -1;
};

// Touches what a thread's first work item needs of a tensor, with `reach` more tokens on both
// sides: one byte per cache line, back to back, so that the cache misses overlap. Later items are
// prefetched one by one (token_prefetch.h). Tensors without contiguous channels are skipped.
inline void stream_tokens(const View<4>& tensor, const HeadWorkItem& item, index_t tokens,
                          index_t reach) {
  constexpr index_t kLine = 64;
  if (!tensor.present() || tensor.stride[3] != 1) return;
  const index_t first = larger(item.first - reach, 0);
  const index_t end = smaller(item.end() + reach, tokens);
  const TokenView view = token_major(tensor, item.batch, item.head);
  const index_t size = element_size(view.dtype);
  const index_t bytes = view.channels * size;
  for (index_t token = first; token < end; ++token) {
    const volatile char* row =
        static_cast<const char*>(view.data) + token * view.token_stride * size;
    for (index_t at = 0; at < bytes; at += kLine) static_cast<void>(row[at]);
    static_cast<void>(row[bytes - 1]);
  }
}

// s(n) = log(number of window cells inside the image at n + P) for every token; the last one is
// repeated over a block.
template <class C>
class LengthScale {
 public:
  explicit LengthScale(const AttentionSizes<C>& sizes) : values_(sizes.tokens + kBlock<C>) {
    const Window& window = sizes.window;
    const Grid& grid = window.grid;
    index_t known = -1;
    C value = 0;
    index_t token = 0;
    for (index_t row = 0; row < grid.height; ++row) {
      const index_t in_column = window.inside(row, grid.height);
      for (index_t column = 0; column < grid.width; ++column) {
        const index_t cells = in_column * window.inside(column, grid.width);
        if (cells != known)
          value = static_cast<C>(__builtin_log(static_cast<double>(cells + sizes.pooled)));
        known = cells;
        values_[token++] = value;
      }
    }
    while (token < values_.size()) values_[token++] = value;
  }

  const C* at(index_t token) const { return values_.data() + token; }

 private:
  Scratch<C> values_;
};

// log(x) for normal x > 0, -infinity for 0; infinity and NaN are returned unchanged. Relative error
// below 2e-7 (float): with x = 2^e (1 + f), 1 + f from sqrt(1/2) to sqrt(2), log(1 + f) = f - f^2 /
// 2 + f^3 times the polynomial of Cephes' logf; ln 2 is split so that e * high is exact.
inline Vector<float> log(Vector<float> x) {
  constexpr float kFit[9] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
                             -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
                             1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
  constexpr int kSqrtHalf = 0x3f3504f3;
  const auto bits = reinterpret_cast<Mask<float>>(x);
  const Mask<float> exponent = (bits - kSqrtHalf) >> 23;
  const auto f = reinterpret_cast<Vector<float>>(bits - (exponent << 23)) - 1.0f;
  const Vector<float> e = __builtin_convertvector(exponent, Vector<float>);
  Vector<float> fit = broadcast<float>(kFit[8]);
  for (int i = 7; i >= 0; --i) fit = fit * f + kFit[i];
  const Vector<float> square = f * f;
  const Vector<float> rest = fit * f * square - 0.5f * square + e * -2.12194440e-4f;
  const Vector<float> result = x < __builtin_huge_valf() ? (f + rest) + e * 0.693359375f : x;
  return x == 0.0f ? broadcast<float>(-__builtin_huge_valf()) : result;
}

inline Vector<double> log(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_log(x[lane]);
  return x;
}

TRANSNEXT_END_LEVEL
