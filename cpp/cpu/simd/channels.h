// Vectors of a token's channels, and constants as arguments of generic lambdas.
#pragma once

#include "cpu/simd/split_float.h"

TRANSNEXT_BEGIN_LEVEL

template <int kCount>
struct Count {
  static constexpr int kValue = kCount;
};
template <bool kFlag>
struct Flag {
  static constexpr bool kValue = kFlag;
};

// A vector of channels, zero beyond the last. kDirect: it is contiguous and complete.
template <class C, bool kDirect, class T>
inline Vector<C> load_channels(const T* token, index_t stride, index_t channel, index_t channels) {
  if constexpr (kDirect) return load_vector<C>(token + channel);
  return load_lanes<C>(token, stride, channel, channels);
}

template <class C, bool kDirect, class T>
inline void store_channels(T* token, index_t stride, index_t channel, index_t channels,
                           Vector<C> vector) {
  if constexpr (std::is_same_v<T, SplitFloat>) {
    store_split(token, channel, vector);
  } else if constexpr (kDirect) {
    store_vector<C>(token + channel, vector);
  } else {
    store_lanes<C>(token, stride, channel, channels, vector);
  }
}

TRANSNEXT_END_LEVEL
