// The gate of Convolutional GLU on rows of scratch memory: GELU(depthwise 3x3 (values)) * gate, the
// inner step of the fused layer.
#pragma once

#include "cpu/convert.h"
#include "cpu/math.h"
#include "cpu/scratch.h"

TRANSNEXT_BEGIN_LEVEL

// The convolution's weights tap-major and its bias, [9 + 1][padded channels], padded with zeros.
template <class C>
class GateWeights {
 public:
  GateWeights(const View<4>& weight, const View<1>& bias)
      : channels_(weight.shape[0]),
        padded_(round_up(channels_, kLanes<C>)),
        taps_((kTaps + 1) * padded_) {
    taps_.zero();
    for (index_t c = 0; c < channels_; ++c) {
      const C* from = static_cast<const C*>(weight.data) + c * weight.stride[0];
      for (int t = 0; t < kTaps; ++t)
        taps_[t * padded_ + c] = from[(t / 3) * weight.stride[2] + (t % 3) * weight.stride[3]];
      if (bias.present())
        taps_[kTaps * padded_ + c] = static_cast<const C*>(bias.data)[c * bias.stride[0]];
    }
  }

  static constexpr int kTaps = 9;
  index_t padded() const { return padded_; }
  const C* tap(int t) const { return taps_.data() + t * padded_; }
  const C* bias() const { return tap(kTaps); }

 private:
  index_t channels_;
  index_t padded_;
  Scratch<C> taps_;
};

// Three rows of values, each from the token left of the first one on, nullptr outside the image; and
// the gates from the first token on. Tokens are `stride` apart.
template <class C>
struct GateRows {
  const C* values[3];
  const C* gates;
  index_t stride;
};

template <int kTokens, class E, class C>
inline void gate_tile(const GateRows<C>& rows, const GateWeights<C>& weights, index_t token, E* out,
                      index_t out_stride) {
  const index_t at = token * rows.stride;
  for (index_t c = 0; c < weights.padded(); c += kLanes<C>) {
    Vector<C> sum[kTokens];
    for (auto& s : sum) s = load<Vector<C>>(weights.bias() + c);
    for (int dy = 0; dy < 3; ++dy) {
      if (rows.values[dy] == nullptr) continue;
      const C* line = rows.values[dy] + at + c;
      Vector<C> x[kTokens + 2];
      for (int i = 0; i < kTokens + 2; ++i) x[i] = load<Vector<C>>(line + i * rows.stride);
      for (int dx = 0; dx < 3; ++dx) {
        const auto weight = load<Vector<C>>(weights.tap(3 * dy + dx) + c);
        for (int i = 0; i < kTokens; ++i) sum[i] += weight * x[i + dx];
      }
    }
    for (int i = 0; i < kTokens; ++i) {
      const auto gate = load<Vector<C>>(rows.gates + at + i * rows.stride + c);
      store_vector<C>(out + (token + i) * out_stride + c, gelu(sum[i]).value * gate);
    }
  }
}

// Writes `tokens` tokens of gated features, padded channels included.
template <class E, class C>
inline void gate_tokens(const GateRows<C>& rows, const GateWeights<C>& weights, index_t tokens,
                        E* out, index_t out_stride) {
  index_t token = 0;
  for (; token + 4 <= tokens; token += 4) gate_tile<4>(rows, weights, token, out, out_stride);
  for (; token < tokens; ++token) gate_tile<1>(rows, weights, token, out, out_stride);
}

TRANSNEXT_END_LEVEL
