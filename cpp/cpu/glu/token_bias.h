// Tokens with a bias added, in the type of the arithmetic.
#pragma once

#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/runtime/tokens.h"
#include "cpu/simd/channels.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
constexpr DType compute_type() {
  return sizeof(C) == sizeof(double) ? DType::kFloat64 : DType::kFloat32;
}

template <class T, class C>
class BiasedTokens {
 public:
  // x: [B, N, channels] T, bias: [channels] C.
  BiasedTokens(const View<3>& x, const View<1>& bias, int threads)
      : sums_(x.shape[0] * x.shape[1] * x.shape[2]) {
    const index_t channels = x.shape[2];
    view_ = {sums_.data(),
             compute_type<C>(),
             {x.shape[0], x.shape[1], channels},
             {x.shape[1] * channels, channels, 1}};
    parallel_for(x.shape[0] * x.shape[1], threads, [&](index_t number) {
      for (index_t c = 0; c < channels; c += kLanes<C>) {
        const Vector<C> sum =
            load_channels<C, false>(token<const T>(x, number), x.stride[2], c, channels) +
            load_channels<C, false>(static_cast<const C*>(bias.data), bias.stride[0], c, channels);
        store_channels<C, false>(token<C>(view_, number), 1, c, channels, sum);
      }
    });
  }

  const View<3>& view() const { return view_; }

 private:
  Scratch<C> sums_;
  View<3> view_;
};

TRANSNEXT_END_LEVEL
