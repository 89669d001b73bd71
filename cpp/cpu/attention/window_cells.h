// The sliding window on channel panels [channels][tokens], tokens in the lanes.
//
// A panel holds a run of consecutive tokens, so the cell (dy, dx) of a whole block of tokens lies
// in the same panel, `shift = dy W + dx` tokens further on: window products need shifted, unaligned
// loads but no copies. Where the shift crosses an edge of the image, lanes are masked and
// contribute nothing, whatever they hold.
#pragma once

#include "cpu/attention/tokens.h"
#include "cpu/gemm/small_gemm.h"

TRANSNEXT_BEGIN_LEVEL

struct Window {
  Grid grid;
  index_t size;

  index_t radius() const { return size / 2; }
  index_t cells() const { return size * size; }
  // The largest distance, in tokens, of a cell inside the image from its query.
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

// Tokens of a token tile. `values` numbers of the compute type per token, with `halos` window
// reaches around the tile, fill about half an L2 cache; but the tile is at least so long that the
// halos are not most of the work, and all tiles have the same length.
constexpr index_t kTokenTileBytes = 640 * 1024;

template <class C>
inline index_t token_tile_tokens(const Window& window, index_t values, index_t halos,
                                 index_t most_bytes = kTokenTileBytes) {
  const index_t bytes = larger(1, values) * static_cast<index_t>(sizeof(C));
  const index_t fitting = most_bytes / bytes - halos * window.halo();
  const index_t least = larger(2 * window.halo(), 4 * kBlock<C>);
  const index_t tokens = window.grid.size();
  const index_t token_tiles = tokens / smaller(larger(fitting, least), tokens);
  return round_up((tokens + token_tiles - 1) / token_tiles, kBlock<C>);
}

// One window cell for a block of tokens, if it lies inside the image for any of them.
template <class C>
struct Cell {
  index_t index;  // j
  index_t shift;  // from the block's first token to its cell
  bool complete;  // no lane is masked
  LaneSet<C> valid[2];
};

// From queries to the cells they see, or from a cell's token back to the queries that see it.
enum class Direction : int { kToCells = 1, kToQueries = -1 };

// Fills `cells` (room for window.cells()) for the tokens first .. first + count - 1 and returns
// their number.
template <class C>
inline index_t active_cells(const Window& window, index_t first, index_t count, Direction direction,
                            Cell<C>* cells) {
  constexpr int n = kLanes<C>;
  using Int = MaskLane<C>;
  Mask<C> rows[2];
  Mask<C> columns[2];
  const Int width = static_cast<Int>(window.grid.width);
  for (int v = 0; v < 2; ++v) {
    const Mask<C> lane = lane_numbers<C>() + static_cast<Int>(v * n);
    rows[v] = Mask<C>{} + static_cast<Int>(first / window.grid.width);
    columns[v] = lane + static_cast<Int>(first % window.grid.width);
    for (Mask<C> over = columns[v] >= width; any_lane<C>(lanes_of<C>(over));
         over = columns[v] >= width) {
      columns[v] -= over & width;
      rows[v] -= over;
    }
    // A lane beyond the block is in no row of the image.
    rows[v] = lane < static_cast<Int>(smaller(count, 2 * n))
                  ? rows[v]
                  : Mask<C>{} - static_cast<Int>(1 + window.size);
  }
  const int sign = static_cast<int>(direction);
  const Int height = static_cast<Int>(window.grid.height);
  index_t active = 0;
  for (index_t y = 0; y < window.size; ++y) {
    const index_t dy = sign * (y - window.radius());
    LaneSet<C> row_valid[2];
    for (int v = 0; v < 2; ++v)
      row_valid[v] = lanes_within<C>(rows[v] + static_cast<Int>(dy), height);
    if (!any_lane<C>(row_valid[0] | row_valid[1])) continue;
    for (index_t x = 0; x < window.size; ++x) {
      const index_t dx = sign * (x - window.radius());
      Cell<C>& cell = cells[active];
      for (int v = 0; v < 2; ++v)
        cell.valid[v] = row_valid[v] & lanes_within<C>(columns[v] + static_cast<Int>(dx), width);
      if (!any_lane<C>(cell.valid[0] | cell.valid[1])) continue;
      cell.index = y * window.size + x;
      cell.shift = dy * window.grid.width + dx;
      cell.complete = all_lanes<C>(cell.valid[0] & cell.valid[1]);
      ++active;
    }
  }
  return active;
}

// sum + weight * value in the valid lanes; sum in the others, whatever they hold.
template <class C>
inline Vector<C> masked_multiply_add(Vector<C> weight, Vector<C> value, Vector<C> sum,
                                     LaneSet<C> valid) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(C) == 4)
    return reinterpret_cast<Vector<C>>(
        _mm512_mask3_fmadd_ps(reinterpret_cast<__m512>(weight), reinterpret_cast<__m512>(value),
                              reinterpret_cast<__m512>(sum), static_cast<__mmask16>(valid)));
#endif
  return sum + select<C>(valid, weight, Vector<C>{}) * select<C>(valid, value, Vector<C>{});
}

// Handles the block's first kVectors vectors; the scores of the other one become 0.
template <int kCells, int kVectors, class C>
inline void correlate_cells(index_t channels, const C* a, index_t a_stride, const C* b,
                            index_t b_stride, const Cell<C>* cells, C* scores) {
  constexpr int n = kLanes<C>;
  Vector<C> sum[kCells][2] = {};
  index_t shift[kCells];
  for (int i = 0; i < kCells; ++i) shift[i] = cells[i].shift;
  for (index_t c = 0; c < channels; ++c, a += a_stride, b += b_stride) {
    Vector<C> left[kVectors];
    for (int v = 0; v < kVectors; ++v) left[v] = load<Vector<C>>(a + v * n);
    for (int i = 0; i < kCells; ++i) {
      for (int v = 0; v < kVectors; ++v)
        sum[i][v] += left[v] * load<Vector<C>>(b + shift[i] + v * n);
    }
  }
  for (int i = 0; i < kCells; ++i) {
    for (int v = 0; v < 2; ++v) store(scores + cells[i].index * kBlock<C> + v * n, sum[i][v]);
  }
}

template <int kVectors, class C>
inline void correlate_vectors(index_t channels, const C* a, index_t a_stride, const C* b,
                              index_t b_stride, const Cell<C>* cells, index_t active, C* scores) {
  index_t i = 0;
#if defined(__AVX512F__) || defined(__aarch64__)
  // 32 registers hold the sums of all cells of a window, so `a` is loaded once.
  for (; i + 9 <= active; i += 9)
    correlate_cells<9, kVectors>(channels, a, a_stride, b, b_stride, cells + i, scores);
#endif
  for (; i + 3 <= active; i += 3)
    correlate_cells<3, kVectors>(channels, a, a_stride, b, b_stride, cells + i, scores);
  for (; i < active; ++i)
    correlate_cells<1, kVectors>(channels, a, a_stride, b, b_stride, cells + i, scores);
}

// scores[j][lane] = sum over c of a[c][lane] b[c][lane + shift_j] for the active cells of a block of
// `count` tokens, with arbitrary numbers in masked lanes. `a` and `b` point at the block's first token.
template <class C>
inline void correlate(index_t channels, const C* a, index_t a_stride, const C* b, index_t b_stride,
                      const Cell<C>* cells, index_t active, index_t count, C* scores) {
  if (count > kLanes<C>) {
    correlate_vectors<2>(channels, a, a_stride, b, b_stride, cells, active, scores);
  } else {
    correlate_vectors<1>(channels, a, a_stride, b, b_stride, cells, active, scores);
  }
}

// Channels whose sums over a window are held in registers at a time.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr index_t kGatheredChannels = 12;
#else
constexpr index_t kGatheredChannels = kTileRows;
#endif

// Handles the block's first kVectors vectors; the other one becomes 0. Every loop over the sums is
// unrolled, or compilers would keep them in memory.
template <int kChannels, int kVectors, bool kAtShift, class C>
TRANSNEXT_PHASE void gather_channels(const Cell<C>* cells, index_t active, const C* weights,
                                     index_t weight_stride, const C* values, index_t value_stride,
                                     const C* factor, C* out, index_t out_stride) {
  constexpr int n = kLanes<C>;
  Vector<C> sum[kChannels][2];
#pragma GCC unroll 16
  for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      sum[c][v] = Vector<C>{};
      if (factor != nullptr && v < kVectors)
        sum[c][v] = load<Vector<C>>(out + c * out_stride + v * n) * load<Vector<C>>(factor + v * n);
    }
  }
  for (index_t i = 0; i < active; ++i) {
    const Cell<C>& cell = cells[i];
    const C* weight = weights + cell.index * weight_stride + (kAtShift ? cell.shift : 0);
    const C* value = values + cell.shift;
    Vector<C> w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = load<Vector<C>>(weight + v * n);
    if (cell.complete) {
#pragma GCC unroll 16
      for (int c = 0; c < kChannels; ++c, value += value_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[c][v] += w[v] * load<Vector<C>>(value + v * n);
      }
    } else {
#pragma GCC unroll 16
      for (int c = 0; c < kChannels; ++c, value += value_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          sum[c][v] = masked_multiply_add<C>(w[v], load<Vector<C>>(value + v * n), sum[c][v],
                                             cell.valid[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) store(out + c * out_stride + v * n, sum[c][v]);
  }
}

template <int kVectors, bool kAtShift, class C>
inline void gather_vectors(index_t channels, const Cell<C>* cells, index_t active, const C* weights,
                           index_t weight_stride, const C* values, index_t value_stride,
                           const C* factor, C* out, index_t out_stride) {
  index_t c = 0;
  for (; c + kGatheredChannels <= channels; c += kGatheredChannels) {
    gather_channels<kGatheredChannels, kVectors, kAtShift>(
        cells, active, weights, weight_stride, values + c * value_stride, value_stride, factor,
        out + c * out_stride, out_stride);
  }
  for (; c < channels; ++c) {
    gather_channels<1, kVectors, kAtShift>(cells, active, weights, weight_stride,
                                           values + c * value_stride, value_stride, factor,
                                           out + c * out_stride, out_stride);
  }
}

// out[c][lane] = out[c][lane] factor[lane] + sum over active cells j of weights[j][lane (+ shift_j
// if kAtShift)] values[c][lane + shift_j] for a block of `count` tokens; a null factor counts as 0.
// Without kAtShift the weights belong to the block (queries summing over their cells); with it they
// belong to the shifted token (a cell's token summing over the queries that see it).
template <bool kAtShift, class C>
inline void gather(index_t channels, const Cell<C>* cells, index_t active, index_t count,
                   const C* weights, index_t weight_stride, const C* values, index_t value_stride,
                   const C* factor, C* out, index_t out_stride) {
  if (count > kLanes<C>) {
    gather_vectors<2, kAtShift>(channels, cells, active, weights, weight_stride, values,
                                value_stride, factor, out, out_stride);
  } else {
    gather_vectors<1, kAtShift>(channels, cells, active, weights, weight_stride, values,
                                value_stride, factor, out, out_stride);
  }
}

// Fills a panel from `begin` on with `count` tokens, in whole blocks, with zeros for tokens outside
// 0 .. tokens-1. If inverse_norms is not null, stores the tokens' inverse norms there, in the
// panel's order.
template <class C>
inline void load_panel(const TokenView& view, index_t tokens, const Panel<C>& panel, index_t begin,
                       index_t count, C* inverse_norms = nullptr) {
  for (index_t i = begin; i < begin + count; i += kBlock<C>) {
    const index_t first = panel.first + i;
    load_block(view, first, smaller(larger(-first, 0), kBlock<C>),
               smaller(larger(tokens - first, 0), kBlock<C>), panel.data + i, panel.stride);
    if (inverse_norms != nullptr)
      find_inverse_norms(view.channels, panel.data + i, panel.stride, inverse_norms + i);
  }
}

TRANSNEXT_END_LEVEL
