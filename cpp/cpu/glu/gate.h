// The inner routine of the Convolutional GLU: one row of GELU(depthwise 3x3 of a + bias) * gate.
#pragma once

#include "cpu/glu/depthwise.h"
#include "cpu/simd/math.h"

TRANSNEXT_BEGIN_LEVEL

template <class C, int kCount, bool kDirect, class A, class G, class O>
inline void gate_tile(const RowWindow<A>& a, const Taps<C>& taps, const TokenRow<const G>& gate,
                      const TokenRow<O>& out, index_t out_first, index_t column, index_t channel) {
  Vector<C> u[kCount];
  convolve<C, kCount, kDirect>(a, column, channel, taps, channel, u);
  gelu<C>(u);
  for (int i = 0; i < kCount; ++i) {
    const index_t at = column + i;
    const auto factor = load_channels<C, kDirect>(gate.data + at * gate.column_stride,
                                                  gate.channel_stride, channel, a.channels);
    store_channels<C, kDirect>(out.data + at * out.column_stride, out.channel_stride,
                               out_first + channel, out_first + a.channels, u[i] * factor);
  }
}

// Columns [begin, end) of out = GELU(convolution of a) * gate, all channels of `a`, which are those
// from `out_first` on of out. The storage types of `a`, gate and out may differ; `out` may be `gate`.
// Per output: 9 multiply-adds and about 20 instructions of GELU; if `a` is cached, two values are read
// from and one is written to memory.
template <class C, class A, class G, class O>
inline void gate_row(const RowWindow<A>& a, const Taps<C>& taps, const TokenRow<const G>& gate,
                     const TokenRow<O>& out, index_t begin, index_t end, index_t out_first = 0) {
  const bool direct = a.channel_stride == 1 && gate.channel_stride == 1 && out.channel_stride == 1;
  for_each_tile(begin, end, [&](auto count, index_t column) {
    constexpr int kCount = decltype(count)::kValue;
    index_t c = 0;
    if (direct) {
      for (; c + kLanes<C> <= a.channels; c += kLanes<C>)
        gate_tile<C, kCount, true>(a, taps, gate, out, out_first, column, c);
    }
    for (; c < a.channels; c += kLanes<C>) {
      for (int i = 0; i < kCount; ++i)
        gate_tile<C, 1, false>(a, taps, gate, out, out_first, column + i, c);
    }
  });
}

TRANSNEXT_END_LEVEL
