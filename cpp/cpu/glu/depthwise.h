// The 3x3 depthwise convolution of tokens, channels in the vector lanes, up to four output columns
// at a time.
#pragma once

#include "cpu/runtime/scratch.h"
#include "cpu/simd/channels.h"

TRANSNEXT_BEGIN_LEVEL

// Output columns per tile: nine weights are loaded per 36 multiply-adds, and four independent sums
// hide the latency of a multiply-add.
constexpr int kColumns = 4;
constexpr int kTaps = 9;

// The tokens of one image row: column x, channel c at data[x column_stride + c channel_stride].
template <class T>
struct TokenRow {
  T* data;
  index_t column_stride;
  index_t channel_stride;
};

// Three consecutive rows of an image that is `width` tokens wide and has `channels` channels. A row
// outside the image is nullptr and stands for zeros.
template <class T>
struct RowWindow {
  const T* above;
  const T* middle;
  const T* below;
  index_t column_stride;
  index_t channel_stride;
  index_t width;
  index_t channels;
};

// A convolution's parameters in memory order: for each vector of channels the nine weights, tap
// (dy, dx) at 3 dy + dx, and the bias; zeros for padding. Vector c / kLanes starts at
// data + kTapRows * c.
constexpr int kTapRows = kTaps + 1;

template <class C>
struct Taps {
  const C* data;

  Vector<C> weight(index_t channel, int tap) const {
    return load<Vector<C>>(data + kTapRows * channel + tap * kLanes<C>);
  }
  Vector<C> bias(index_t channel) const { return weight(channel, kTaps); }
  // Those from a channel on that begins a vector.
  Taps from(index_t channel) const { return {data + kTapRows * channel}; }
};

template <class C>
class DepthwiseWeights {
 public:
  // weight: [channels, 1, 3, 3], bias: [channels] or absent. flipped: rotated by 180 degrees, for
  // the gradient of the input.
  DepthwiseWeights(const View<4>& weight, const View<1>& bias, bool flipped = false)
      : padded_(round_up(weight.shape[0], kLanes<C>)), data_(kTapRows * padded_) {
    data_.zero();
    for (index_t c = 0; c < weight.shape[0]; ++c) {
      const C* from = static_cast<const C*>(weight.data) + c * weight.stride[0];
      C* to = data_.data() + kTapRows * (c / kLanes<C> * kLanes<C>)+c % kLanes<C>;
      for (int t = 0; t < kTaps; ++t) {
        to[(flipped ? kTaps - 1 - t : t) * kLanes<C>] =
            from[(t / 3) * weight.stride[2] + (t % 3) * weight.stride[3]];
      }
      if (bias.present())
        to[kTaps * kLanes<C>] = static_cast<const C*>(bias.data)[c * bias.stride[0]];
    }
  }

  index_t padded_channels() const { return padded_; }
  Taps<C> taps() const { return {data_.data()}; }

 private:
  index_t padded_;
  Scratch<C> data_;
};

// Calls product(dy, x) with x[i] = image(row dy of the window, column + i - 1), zero outside the
// image, for one vector of channels and each row inside the image.
template <class C, int kCount, bool kDirect, class T, class Product>
inline void for_each_row(const RowWindow<T>& rows, index_t column, index_t channel,
                         Product&& product) {
  const bool left = column > 0;
  const bool right = column + kCount < rows.width;
  const T* const row[3] = {rows.above, rows.middle, rows.below};
  for (int dy = 0; dy < 3; ++dy) {
    if (row[dy] == nullptr) continue;
    const T* token = row[dy] + column * rows.column_stride;
    const auto at = [&](int i) {
      return load_channels<C, kDirect>(token + i * rows.column_stride, rows.channel_stride, channel,
                                       rows.channels);
    };
    Vector<C> x[kCount + 2];
    x[0] = left ? at(-1) : Vector<C>{};
    for (int i = 0; i < kCount; ++i) x[i + 1] = at(i);
    x[kCount + 1] = right ? at(kCount) : Vector<C>{};
    product(dy, x);
  }
}

// sum[i] = bias + sum over taps of weight * image(dy, column + i + dx - 1). The channel is counted
// in the image; `taps` may start at another channel, tap_channel.
template <class C, int kCount, bool kDirect, class T>
inline void convolve(const RowWindow<T>& rows, index_t column, index_t channel, const Taps<C>& taps,
                     index_t tap_channel, Vector<C> (&sum)[kCount]) {
  for (int i = 0; i < kCount; ++i) sum[i] = taps.bias(tap_channel);
  for_each_row<C, kCount, kDirect>(rows, column, channel, [&](int dy, const Vector<C>* x) {
    for (int dx = 0; dx < 3; ++dx) {
      const Vector<C> weight = taps.weight(tap_channel, 3 * dy + dx);
      for (int i = 0; i < kCount; ++i) sum[i] += weight * x[i + dx];
    }
  });
}

// Calls tile(Count<columns>, column) for tiles of at most kColumns columns that cover [begin, end).
template <class Tile>
inline void for_each_tile(index_t begin, index_t end, Tile&& tile) {
  index_t column = begin;
  for (; column + kColumns <= end; column += kColumns) tile(Count<kColumns>{}, column);
  switch (end - column) {
    case 3:
      return tile(Count<3>{}, column);
    case 2:
      return tile(Count<2>{}, column);
    case 1:
      return tile(Count<1>{}, column);
  }
}

TRANSNEXT_END_LEVEL
