// The three products that make up window_qk, window_av and their gradients. They relate a query n,
// a window cell j and the key n + offset_j,
//
//   window_correlate   cells(n, j) = queries(n) . keys(n + offset_j) + bias_j, `outside` outside
//   window_gather      queries(n)  = sum_j cells(n, j) keys(n + offset_j)
//   window_scatter     keys(m)     = sum_j cells(m - offset_j, j) queries(m - offset_j)
//
// and the sum of cells inside the image over all queries, window_bias_sums.
#pragma once

#include "transnext/window.h"

namespace transnext {

// A block's tile in shared memory, as the launch plan chose it.
struct WindowTile {
  int rows;  // of tokens whose results the block computes
  int columns;
  int band_rows;  // of window cells at a time, all if they fit
  int band_columns;
  int channels;      // of a block, a multiple of 4
  int token_stride;  // floats from token to token in shared memory
  int pitch;         // tokens from row to row in shared memory
};

struct WindowProductParams {
  View<4> cells;    // [B, h, N, L] T
  View<4> queries;  // [B, h, N, d] T
  View<4> keys;     // [B, h, N, d] T
  View<2> bias;     // [h, L] float32, optional, window_correlate only
  float outside;    // window_correlate only
  Grid grid;
  index_t window_size;
  WindowTile tile;
};

struct WindowBiasSumsParams {
  View<4> cells;     // [B, h, N, L] T
  float* workspace;  // [slices, h, L]
  index_t slices;
  Grid grid;
  index_t window_size;
};

}  // namespace transnext
