// The sliding window on channel panels [channels][tokens], tokens in the lanes.
//
// A panel holds a run of consecutive tokens, so the cell (dy, dx) of a whole block of tokens is the
// same panel `shift = dy W + dx` further on: window products are shifted, unaligned loads, with no
// copies. Where the shift runs over an edge of the image, lanes are masked: such a lane contributes
// nothing, whatever lies there.
#pragma once

#include "cpu/tokens.h"

TRANSNEXT_BEGIN_LEVEL

struct Window {
  Grid grid;
  index_t size;

  index_t radius() const { return size / 2; }
  index_t cells() const { return size * size; }
  // How far a cell inside the image can be from its query, in tokens.
  index_t halo() const {
    return size == 0 ? 0 : smaller(radius() * (grid.width + 1), grid.size() - 1);
  }
  // Number of cells inside the image for a query in this row (column, with the width).
  index_t inside(index_t at, index_t extent) const {
    return size == 0 ? 0
                     : smaller(at + size - 1 - radius(), extent - 1) - larger(at - radius(), 0) + 1;
  }
};

// A panel of tokens from `first` on: channel c of token n is at(n)[c * stride].
template <class C>
struct Panel {
  C* data;
  index_t stride;
  index_t first;

  C* at(index_t token) const { return data + (token - first); }
};

// Tokens that a task handles at a time: so many that its panels of `channels` rows in all, `halos`
// window's reaches longer than the stretch, fill about half an L2 cache, and at least so many that
// the halos are not most of the work.
constexpr index_t kPanelBytes = 256 * 1024;

template <class C>
inline index_t stretch_tokens(const Window& window, index_t channels, index_t halos) {
  const index_t bytes = larger(1, channels) * static_cast<index_t>(sizeof(C));
  const index_t fitting = kPanelBytes / bytes - halos * window.halo();
  const index_t least = larger(2 * window.halo(), 4 * kBlock<C>);
  return round_up(smaller(larger(fitting, least), window.grid.size()), kBlock<C>);
}

// One window cell for a block of tokens, if it lies inside the image for any of them.
template <class C>
struct Cell {
  index_t index;  // j
  index_t shift;  // of the token the block's first token meets, relative to it
  bool complete;  // no lane is masked
  Mask<C> valid[2];
};

// From queries to the cells they look at, or from a cell's token back to the queries that look at
// it.
enum class Direction : int { kToCells = 1, kToQueries = -1 };

// Fills `cells` (room for window.cells()) for the tokens first .. first + count - 1 and returns how
// many.
template <class C>
inline index_t active_cells(const Window& window, index_t first, index_t count, Direction direction,
                            Cell<C>* cells) {
  constexpr int n = kLanes<C>;
  using Int = MaskLane<C>;
  Int rows[2 * n];
  Int columns[2 * n];
  index_t row = first / window.grid.width;
  index_t column = first % window.grid.width;
  for (index_t i = 0; i < 2 * n; ++i) {
    // A lane beyond the block is in no row of the image.
    rows[i] = static_cast<Int>(i < count ? row : -1 - window.size);
    columns[i] = static_cast<Int>(column);
    if (++column == window.grid.width) {
      column = 0;
      ++row;
    }
  }
  const int sign = static_cast<int>(direction);
  const Int height = static_cast<Int>(window.grid.height);
  const Int width = static_cast<Int>(window.grid.width);
  index_t active = 0;
  for (index_t y = 0; y < window.size; ++y) {
    const index_t dy = sign * (y - window.radius());
    Mask<C> row_valid[2];
    Int any_row = 0;
    for (int v = 0; v < 2; ++v) {
      const Mask<C> at = load<Mask<C>>(rows + v * n) + static_cast<Int>(dy);
      row_valid[v] = (at >= 0) & (at < height);
      for (int lane = 0; lane < n; ++lane) any_row |= row_valid[v][lane];
    }
    if (any_row == 0) continue;
    for (index_t x = 0; x < window.size; ++x) {
      const index_t dx = sign * (x - window.radius());
      Cell<C>& cell = cells[active];
      Int any = 0;
      Int all = -1;
      for (int v = 0; v < 2; ++v) {
        const Mask<C> at = load<Mask<C>>(columns + v * n) + static_cast<Int>(dx);
        cell.valid[v] = row_valid[v] & (at >= 0) & (at < width);
        for (int lane = 0; lane < n; ++lane) {
          any |= cell.valid[v][lane];
          all &= cell.valid[v][lane];
        }
      }
      if (any == 0) continue;
      cell.index = y * window.size + x;
      cell.shift = dy * window.grid.width + dx;
      cell.complete = all != 0;
      ++active;
    }
  }
  return active;
}

template <class C>
inline Vector<C> masked(Vector<C> value, Mask<C> valid) {
  return reinterpret_cast<Vector<C>>(reinterpret_cast<Mask<C>>(value) & valid);
}

template <int kCells, class C>
inline void correlate_cells(index_t channels, const C* a, index_t a_stride, const C* b,
                            index_t b_stride, const Cell<C>* cells, C* scores) {
  constexpr int n = kLanes<C>;
  Vector<C> sum[kCells][2] = {};
  for (index_t c = 0; c < channels; ++c) {
    const auto left0 = load<Vector<C>>(a + c * a_stride);
    const auto left1 = load<Vector<C>>(a + c * a_stride + n);
    for (int i = 0; i < kCells; ++i) {
      const C* right = b + c * b_stride + cells[i].shift;
      sum[i][0] += left0 * load<Vector<C>>(right);
      sum[i][1] += left1 * load<Vector<C>>(right + n);
    }
  }
  for (int i = 0; i < kCells; ++i) {
    store(scores + cells[i].index * kBlock<C>, sum[i][0]);
    store(scores + cells[i].index * kBlock<C> + n, sum[i][1]);
  }
}

// scores[j][lane] = sum over c of a[c][lane] b[c][lane + shift_j] for the active cells, with
// arbitrary numbers in masked lanes. `a` and `b` point at the block's first token.
template <class C>
inline void correlate(index_t channels, const C* a, index_t a_stride, const C* b, index_t b_stride,
                      const Cell<C>* cells, index_t active, C* scores) {
  index_t i = 0;
  for (; i + 3 <= active; i += 3)
    correlate_cells<3>(channels, a, a_stride, b, b_stride, cells + i, scores);
  for (; i < active; ++i) correlate_cells<1>(channels, a, a_stride, b, b_stride, cells + i, scores);
}

template <int kChannels, bool kAtShift, class C>
inline void gather_channels(const Cell<C>* cells, index_t active, const C* weights,
                            index_t weight_stride, const C* values, index_t value_stride, C* out,
                            index_t out_stride) {
  constexpr int n = kLanes<C>;
  Vector<C> sum[kChannels][2];
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < 2; ++v) sum[c][v] = load<Vector<C>>(out + c * out_stride + v * n);
  }
  for (index_t i = 0; i < active; ++i) {
    const Cell<C>& cell = cells[i];
    const C* weight = weights + cell.index * weight_stride + (kAtShift ? cell.shift : 0);
    const C* value = values + cell.shift;
    for (int v = 0; v < 2; ++v) {
      const auto w = load<Vector<C>>(weight + v * n);
      if (cell.complete) {
        for (int c = 0; c < kChannels; ++c)
          sum[c][v] += w * load<Vector<C>>(value + c * value_stride + v * n);
      } else {
        const Vector<C> w_valid = masked<C>(w, cell.valid[v]);
        for (int c = 0; c < kChannels; ++c)
          sum[c][v] +=
              w_valid * masked<C>(load<Vector<C>>(value + c * value_stride + v * n), cell.valid[v]);
      }
    }
  }
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < 2; ++v) store(out + c * out_stride + v * n, sum[c][v]);
  }
}

// out[c][lane] += sum over active cells j of weights[j][lane (+ shift_j if kAtShift)]
// values[c][lane + shift_j]. Without kAtShift the weights are the block's own (queries summing over
// their cells), with it they belong to the shifted token (a cell's token summing over the queries
// that look at it).
template <bool kAtShift, class C>
inline void gather(index_t channels, const Cell<C>* cells, index_t active, const C* weights,
                   index_t weight_stride, const C* values, index_t value_stride, C* out,
                   index_t out_stride) {
  index_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    gather_channels<4, kAtShift>(cells, active, weights, weight_stride, values + c * value_stride,
                                 value_stride, out + c * out_stride, out_stride);
  }
  for (; c < channels; ++c) {
    gather_channels<1, kAtShift>(cells, active, weights, weight_stride, values + c * value_stride,
                                 value_stride, out + c * out_stride, out_stride);
  }
}

// Fills a panel with `count` tokens from panel.first on, zeros for tokens outside 0 .. tokens-1.
// `rows` is room for kBlock padded rows. If inverse_norm is given, tokens are normalised and their
// inverse norms stored there.
template <class C>
inline void load_panel(const TokenView& view, index_t tokens, index_t width, const Panel<C>& panel,
                       index_t count, C* rows, C* inverse_norm = nullptr) {
  for (index_t i = 0; i < count; i += kBlock<C>) {
    const index_t begin = larger(panel.first + i, 0);
    const index_t end = smaller(panel.first + i + kBlock<C>, tokens);
    const index_t skipped = begin - (panel.first + i);
    if (end <= begin) {
      for (index_t r = 0; r < kBlock<C> * width; r += kLanes<C>) store(rows + r, Vector<C>{});
    } else {
      for (index_t r = 0; r < skipped * width; r += kLanes<C>) store(rows + r, Vector<C>{});
      load_rows(view, begin, end - begin, kBlock<C> - skipped, rows + skipped * width, width);
    }
    if (inverse_norm != nullptr) normalise_rows(kBlock<C>, rows, width, inverse_norm + i);
    transpose(rows, width, kBlock<C>, width, panel.data + i, panel.stride);
  }
}

TRANSNEXT_END_LEVEL
