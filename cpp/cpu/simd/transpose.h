// Transposition between token rows [tokens][channels] and channel panels [channels][tokens].
#pragma once

#include <utility>

#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TRANSNEXT_HAS_SHUFFLEVECTOR 1
#endif
#endif

// Lanes picked from a (0 .. lanes-1) and b (lanes .. 2 lanes-1) by constant indices.
template <class C, int... kPicks>
inline Vector<C> shuffle(Vector<C> a, Vector<C> b) {
#if defined(TRANSNEXT_HAS_SHUFFLEVECTOR)
  return __builtin_shufflevector(a, b, kPicks...);
#else
  return __builtin_shuffle(a, b, Mask<C>{kPicks...});
#endif
}

template <class C, int kStep, int... kLane>
inline void exchange(Vector<C>& a, Vector<C>& b, std::integer_sequence<int, kLane...>) {
  constexpr int n = kLanes<C>;
  const Vector<C> low = shuffle<C, ((kLane & kStep) == 0 ? kLane : n + kLane - kStep)...>(a, b);
  const Vector<C> high = shuffle<C, ((kLane & kStep) == 0 ? kLane + kStep : n + kLane)...>(a, b);
  a = low;
  b = high;
}

// Transposes a square of kLanes vectors: each step swaps the off-diagonal blocks of its size.
template <class C, int kStep = 1>
inline void transpose_square(Vector<C> (&square)[kLanes<C>]) {
  if constexpr (kStep < kLanes<C>) {
    for (int i = 0; i < kLanes<C>; ++i) {
      if ((i & kStep) == 0) {
        exchange<C, kStep>(square[i], square[i + kStep],
                           std::make_integer_sequence<int, kLanes<C>>{});
      }
    }
    transpose_square<C, 2 * kStep>(square);
  }
}

// The sum over the lanes of vector i of a square of kLanes, in lane i: each step adds halves of two
// vectors into one.
template <class C, int kStep = 1>
inline Vector<C> sum_rows(Vector<C> (&square)[kLanes<C>]) {
  if constexpr (kStep < kLanes<C>) {
    for (int i = 0; i < kLanes<C>; i += 2 * kStep) {
      exchange<C, kStep>(square[i], square[i + kStep],
                         std::make_integer_sequence<int, kLanes<C>>{});
      square[i] += square[i + kStep];
    }
    return sum_rows<C, 2 * kStep>(square);
  } else {
    return square[0];
  }
}

// to[c * to_stride + r] = from[r * from_stride + c] for r < rows, c < columns. Both are multiples
// of kLanes<C>.
template <class C>
inline void transpose(const C* from, index_t from_stride, index_t rows, index_t columns, C* to,
                      index_t to_stride) {
  constexpr int n = kLanes<C>;
  for (index_t r = 0; r < rows; r += n) {
    for (index_t c = 0; c < columns; c += n) {
      Vector<C> square[n];
      for (int i = 0; i < n; ++i) square[i] = load<Vector<C>>(from + (r + i) * from_stride + c);
      transpose_square<C>(square);
      for (int i = 0; i < n; ++i) store(to + (c + i) * to_stride + r, square[i]);
    }
  }
}

TRANSNEXT_END_LEVEL
