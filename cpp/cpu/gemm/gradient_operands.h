// The operands of a product over tokens, left^T right, laid out for it some tokens at a time, and the
// product: for gradients of weights (weight_gradient.cpp).
#pragma once

#include "cpu/gemm/small_gemm.h"
#include "cpu/gemm/tile_square.h"
#include "cpu/runtime/scratch.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/transpose.h"

TRANSNEXT_BEGIN_LEVEL

constexpr index_t kGradientColumns = 16;  // in whole tiles of the tile unit

// Some features of tokens that lie token_stride apart.
template <class T>
struct TokenPart {
  const T* data;
  index_t token_stride;
  index_t stride;  // from feature to feature
  index_t features;
};

// On vectors, in the type of the arithmetic, in the order in which tiles read them:
//
//   left   [feature / kTileRows][token][feature % kTileRows]
//   right  [feature / kWidth][token][feature % kWidth]
//
// so that a tile's part of all tokens lies together in the first-level cache. Rows of all features would
// lie as far apart as a few of its sets. Beyond the last feature is 0.
template <class T, class C>
class VectorOperands {
 public:
  VectorOperands(index_t height, index_t width, index_t tokens)
      : height_(round_up(height, kTileRows)),
        columns_(round_up(width, kWidth)),
        left_stride_(odd_lines<C>(tokens * kTileRows)),
        right_stride_(odd_lines<C>(tokens * kWidth)),
        row_(larger(height_, columns_)),
        left_(height_ / kTileRows * left_stride_),
        right_(columns_ / kWidth * right_stride_),
        sums_(height_ * columns_) {}

  TRANSNEXT_PHASE void load_left(const TokenPart<T>& tokens, index_t count, C* sum) {
    load<kTileRows>(tokens, count, sum, left_.data(), left_stride_);
  }
  TRANSNEXT_PHASE void load_right(const TokenPart<T>& tokens, index_t count, C* sum) {
    load<kWidth>(tokens, count, sum, right_.data(), right_stride_);
  }

  TRANSNEXT_PHASE void add_products(index_t count, bool add) {
    const C* right = right_.data();
    for (index_t column = 0; column < columns_; column += kWidth, right += right_stride_) {
      const C* left = left_.data();
      for (index_t row = 0; row < height_; row += kTileRows, left += left_stride_) {
        const LaneRows<C> sums{&sums_[row * columns_ + column], columns_};
        multiply_tile<kTileRows, 2, false, 1>(count, {left, 1, kTileRows}, right, kWidth,
                                              {add ? sums.data : nullptr, columns_}, sums);
      }
    }
  }

  const C* sums() const { return sums_.data(); }
  index_t sum_stride() const { return columns_; }

 private:
  static constexpr index_t kWidth = 2 * kLanes<C>;

  // to[feature / kGroup][token][feature % kGroup], groups `stride` apart.
  template <index_t kGroup>
  void load(const TokenPart<T>& tokens, index_t count, C* sum, C* to, index_t stride) {
    C* const row = row_.data();
    const index_t features = round_up(tokens.features, kGroup);
    for (index_t c = tokens.features; c < features; ++c) row[c] = C(0);
    for (index_t token = 0; token < count; ++token, to += kGroup) {
      load_row(tokens.data + token * tokens.token_stride, tokens.stride, tokens.features, row);
      for (index_t c = 0; c < tokens.features && sum != nullptr; ++c) sum[c] += row[c];
      C* group = to;
      for (index_t c = 0; c < features; c += kGroup, group += stride)
        __builtin_memcpy(group, row + c, kGroup * sizeof(C));
    }
  }

  index_t height_;
  index_t columns_;
  index_t left_stride_;
  index_t right_stride_;
  Scratch<C> row_;  // a token's features
  Scratch<C> left_;
  Scratch<C> right_;
  Scratch<C> sums_;  // [feature of left][feature of right]
};

template <class T, class C>
struct OperandsOf {
  using Type = VectorOperands<T, C>;
};

#if defined(TRANSNEXT_TILES)

// Of bfloat16 on the tile unit:
//
//   left   [feature][token]             tiles of rows, their depth side by side
//   right  [token / 2][feature][2]      tiles of pairs
//
// Of the last tokens' tiles what is beyond the last token is zero. Rows and columns beyond the last
// feature hold anything, and so do their sums.
class TileOperands {
 public:
  TileOperands(index_t height, index_t width, index_t tokens)
      : height_(round_up(height, kSquareSide)),
        columns_(round_up(width, kTileSide)),
        left_stride_(odd_lines<BFloat16>(round_up(tokens, kTileDepth))),
        right_stride_(odd_lines<BFloat16>(2 * columns_)),
        left_(height_ * left_stride_),
        right_(round_up(tokens, kTileDepth) / 2 * right_stride_),
        sums_(height_ * sum_stride()) {}

  TRANSNEXT_PHASE void load_left(const TokenPart<BFloat16>& tokens, index_t count, float* sum) {
    for (index_t token = 0; token < round_up(count, kTileDepth); token += 2 * n) {
      for (index_t c = 0; c < tokens.features; c += n) {
        Vector<float> square[n];
        load_pairs(tokens, token, count, c, square);
        if (sum != nullptr) add_tokens(square, sum + c);
        transpose_square<float>(square);
        for (index_t i = 0; i < n; ++i) store(&left_[(c + i) * left_stride_ + token], square[i]);
      }
    }
  }

  TRANSNEXT_PHASE void load_right(const TokenPart<BFloat16>& tokens, index_t count, float* sum) {
    for (index_t token = 0; token < round_up(count, kTileDepth); token += 2 * kPairs) {
      BFloat16* const to = &right_[token / 2 * right_stride_];
      for (index_t c = 0; c < tokens.features; c += n) {
        Vector<float> pairs[kPairs];
        load_pairs(tokens, token, count, c, pairs);
        if (sum != nullptr) add_tokens(pairs, sum + c);
        for (index_t i = 0; i < kPairs; ++i) store(to + i * right_stride_ + 2 * c, pairs[i]);
      }
    }
  }

  TRANSNEXT_PHASE void add_products(index_t count, bool add) {
    const TileUnit unit;
    if (add) {
      multiply_squares<true>(round_up(count, kTileDepth));
    } else {
      multiply_squares<false>(round_up(count, kTileDepth));
    }
  }

  const float* sums() const { return sums_.data(); }
  index_t sum_stride() const { return right_stride_ / 2; }

 private:
  static constexpr index_t n = kLanes<float>;
  static constexpr index_t kPairs = 4;  // of tokens at a time

  // pairs[i] = the features from c on of tokens token + 2 i and token + 2 i + 1, in turns.
  template <index_t kCount>
  static void load_pairs(const TokenPart<BFloat16>& tokens, index_t token, index_t count, index_t c,
                         Vector<float> (&pairs)[kCount]) {
    const index_t used = smaller(n, tokens.features - c);
    const BFloat16* from = tokens.data + token * tokens.token_stride + c * tokens.stride;
    if (tokens.stride == 1 && used == n && token + 2 * kCount <= count) {
#pragma GCC unroll 16
      for (index_t i = 0; i < kCount; ++i, from += 2 * tokens.token_stride)
        pairs[i] = pair_up(load<HalfBits>(from), load<HalfBits>(from + tokens.token_stride));
      return;
    }
    for (index_t i = 0; i < kCount; ++i) {
      BFloat16 part[2][n] = {};
      for (index_t odd = 0; odd < 2; ++odd, from += tokens.token_stride) {
        if (token + 2 * i + odd < count) load_row(from, tokens.stride, used, part[odd]);
      }
      pairs[i] = pair_up(load<HalfBits>(part[0]), load<HalfBits>(part[1]));
    }
  }

  static Vector<float> pair_up(HalfBits even, HalfBits odd) {
    return reinterpret_cast<Vector<float>>(widened(even) | widened(odd) << 16);
  }

  template <index_t kCount>
  static void add_tokens(const Vector<float> (&pairs)[kCount], float* sum) {
    auto total = load<Vector<float>>(sum);
#pragma GCC unroll 16
    for (index_t i = 0; i < kCount; ++i) {
      const Bits bits = reinterpret_cast<Bits>(pairs[i]);
      total += reinterpret_cast<Vector<float>>(bits << 16) +
               reinterpret_cast<Vector<float>>(bits & 0xffff0000u);
    }
    store(sum, total);
  }

  template <bool kAdd>
  void multiply_squares(index_t depth) {
    for (index_t row = 0; row < height_; row += kSquareSide) {
      const SquareRows left{&left_[row * left_stride_], left_stride_};
      float* const sums = &sums_[row * sum_stride()];
      index_t column = 0;
      for (; column + kSquareSide <= columns_; column += kSquareSide)
        multiply_square<2, kAdd>(left, {&right_[2 * column], right_stride_}, depth, sums + column,
                                 sum_stride());
      if (column < columns_)
        multiply_square<1, kAdd>(left, {&right_[2 * column], right_stride_}, depth, sums + column,
                                 sum_stride());
    }
  }

  index_t height_;
  index_t columns_;
  index_t left_stride_;
  index_t right_stride_;
  Scratch<BFloat16> left_;
  Scratch<BFloat16> right_;
  Scratch<float> sums_;  // [feature of left][feature of right]
};

template <>
struct OperandsOf<BFloat16, float> {
  using Type = TileOperands;
};

#endif

// Both have these members:
//
//   (height, width, tokens)         features of left and right, and the most tokens at a time
//   load_left, load_right           `count` tokens, whose sum is added to `sum` unless that is null
//   add_products(count, add)        sums = left^T right over `count` tokens, added if `add`
//   sums(), sum_stride()            [feature of left][feature of right]
template <class T, class C>
using GradientOperands = typename OperandsOf<T, C>::Type;

TRANSNEXT_END_LEVEL
