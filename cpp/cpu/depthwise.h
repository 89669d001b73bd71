// The 3x3 depthwise convolution of tokens, channels in the vector lanes, four output columns at a
// time.
#pragma once

#include "cpu/convert.h"

TRANSNEXT_BEGIN_LEVEL

constexpr int kColumns = 4;  // output columns per tile: nine weights are loaded for 36 products

// Rows of an image in memory, from image row `first_row` on.
template <class T>
struct Rows {
  const T* data;
  index_t first_row;
  index_t row_stride;
  index_t column_stride;
  index_t channel_stride;
  index_t channels;
};

// Tap-major weights [9][padded channels] in the compute type: weight of tap (dy, dx) at 3 dy + dx.
template <class C>
struct Taps {
  const C* data;
  index_t padded_channels;
};

// sum[i] += sum over taps of weight * image(row + dy - 1, column + i + dx - 1), zero outside the
// image, for one vector of channels. kInside: all columns read lie inside; kDirect: the vector is
// contiguous and complete.
template <class C, bool kInside, bool kDirect, class T>
inline void convolve_tile(const Rows<T>& rows, Grid grid, index_t row, index_t column,
                          index_t channel, const Taps<C>& taps, index_t tap_channel,
                          Vector<C> (&sum)[kColumns]) {
  for (int dy = 0; dy < 3; ++dy) {
    const index_t y = row + dy - 1;
    if (y < 0 || y >= grid.height) continue;
    const T* line = rows.data + (y - rows.first_row) * rows.row_stride;
    Vector<C> x[kColumns + 2];
    for (int i = 0; i < kColumns + 2; ++i) {
      const index_t at = column + i - 1;
      if (!kInside && (at < 0 || at >= grid.width)) {
        x[i] = Vector<C>{};
      } else if (kDirect) {
        x[i] = load_vector<C>(line + at * rows.column_stride + channel);
      } else {
        x[i] = load_lanes<C>(line + at * rows.column_stride, rows.channel_stride, channel,
                             rows.channels);
      }
    }
    for (int dx = 0; dx < 3; ++dx) {
      const auto weight =
          load<Vector<C>>(taps.data + (3 * dy + dx) * taps.padded_channels + tap_channel);
      for (int i = 0; i < kColumns; ++i) sum[i] += weight * x[i + dx];
    }
  }
}

template <class C, class T>
inline void convolve(const Rows<T>& rows, Grid grid, index_t row, index_t column, index_t channel,
                     const Taps<C>& taps, index_t tap_channel, Vector<C> (&sum)[kColumns]) {
  const bool inside = column >= 1 && column + kColumns < grid.width;
  const bool direct = rows.channel_stride == 1 && channel + kLanes<C> <= rows.channels;
  if (inside && direct)
    return convolve_tile<C, true, true>(rows, grid, row, column, channel, taps, tap_channel, sum);
  if (direct)
    return convolve_tile<C, false, true>(rows, grid, row, column, channel, taps, tap_channel, sum);
  convolve_tile<C, false, false>(rows, grid, row, column, channel, taps, tap_channel, sum);
}

TRANSNEXT_END_LEVEL
