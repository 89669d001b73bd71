// window_qk and window_av on the GPU: the products of window_params.h, T in float, Half, BFloat16;
// float arithmetic.
//
// A block computes a tile of tokens of one (batch, head); the other operand, with its halo, lies in
// shared memory as floats. Windows that do not fit are processed in bands of cells. Lanes run along
// what is consecutive in the result: cells of a query in window_correlate, runs of four channels of
// a token in the two sums.
//
// Shared memory: in window_correlate the lanes of a phase read the keys of consecutive cells, one
// run at a time. Tokens are an odd number of runs apart, and the pitch of rows, in tokens, equals
// the window's width modulo 8, so that these keys lie in different banks, within an odd window and
// from one query to the next. In the sums tokens are packed, and the lanes' runs are consecutive.
//
// Bytes per (query, head), sizeof(T) each: 2 d (1 + halo) + L for 2 d L flops: bound by memory, or
// by shared memory, where window_correlate reads 8 bytes per two flops and the sums 5. No atomics:
// every result is one thread's sum in a fixed order.
#pragma once

#include "cuda/kernels/common/image.cuh"
#include "cuda/kernels/common/partial_sums.cuh"
#include "cuda/kernels/common/runs.cuh"
#include "cuda/kernels/common/shared_memory.cuh"
#include "cuda/kernels/common/small_divisor.cuh"
#include "cuda/kernels/window/window_params.h"
#include "cuda/kernels/window/window_shape.h"

namespace transnext {

namespace device {

using WindowRun = Run<float, kWindowRun>;

__device__ inline index_t window_tiles_down(const WindowProductParams& p) {
  return (p.grid.height + p.tile.rows - 1) / p.tile.rows;
}
__device__ inline index_t window_tiles_across(const WindowProductParams& p) {
  return (p.grid.width + p.tile.columns - 1) / p.tile.columns;
}

// The tile and image that a block works on.
struct WindowPosition {
  index_t batch;
  index_t head;
  int top;
  int left;

  __device__ WindowPosition(const WindowProductParams& p, index_t tile) {
    const index_t across = window_tiles_across(p);
    const index_t down = window_tiles_down(p);
    const index_t plane = tile / across / down;
    batch = plane / p.cells.shape[1];
    head = plane % p.cells.shape[1];
    top = static_cast<int>(tile / across % down * p.tile.rows);
    left = static_cast<int>(tile % across * p.tile.columns);
  }
};

__device__ inline int smaller(int a, int b) {
  return a < b ? a : b;
}

// The first element of a token of a [B, h, N, last] tensor.
template <class T>
__device__ inline T* token_of(const View<4>& tensor, const WindowPosition& position,
                              index_t token) {
  return static_cast<T*>(tensor.data) + position.batch * tensor.stride[0] +
         position.head * tensor.stride[1] + token * tensor.stride[2];
}

// Loads channels first_channel .. first_channel + tile.channels - 1 of a rectangle of tokens into
// shared memory; zeros outside the image and beyond the last channel.
template <class T>
__device__ inline void load_tokens(const WindowProductParams& p, const View<4>& tensor,
                                   const WindowPosition& position, int top, int left, int rows,
                                   int columns, int pitch, int first_channel, bool runs,
                                   float* shared) {
  const SmallDivisor runs_per_token(p.tile.channels / kWindowRun);
  const SmallDivisor tokens_per_row(columns);
  const int width = static_cast<int>(p.grid.width);
  const int depth = static_cast<int>(tensor.shape[3]);
  const int all = rows * columns * runs_per_token.divisor;
#pragma unroll 1
  for (int first = threadIdx.x; first < all; first += kWindowAtOnce * kWindowThreads) {
    RawRun<T, kWindowRun> raw[kWindowAtOnce];
    int offsets[kWindowAtOnce];
#pragma unroll
    for (int k = 0; k < kWindowAtOnce; ++k) {
      const int i = first + k * kWindowThreads;
      const int token = runs_per_token.quotient(i);
      const int channel = (i - token * runs_per_token.divisor) * kWindowRun;
      const int y = tokens_per_row.quotient(token);
      const int x = token - y * columns;
      const int count = depth - first_channel - channel;
      offsets[k] = (y * pitch + x) * p.tile.token_stride + channel;
      if (i < all && inside(p.grid, top + y, left + x) && count > 0) {
        const T* from = token_of<const T>(tensor, position, index_t{top + y} * width + left + x);
        raw[k].load(from + (first_channel + channel) * tensor.stride[3], tensor.stride[3], count,
                    runs);
      }
    }
#pragma unroll
    for (int k = 0; k < kWindowAtOnce; ++k) {
      if (first + k * kWindowThreads >= all) break;
      WindowRun run;
      raw[k].read(run.values);
      *reinterpret_cast<WindowRun*>(shared + offsets[k]) = run;
    }
  }
}

// Loads cells [first_row, first_row + band_rows) x [first_column, ...) of a rectangle of queries
// into shared memory, [rows][pitch][band cells]; zero where the query or the cell is outside the
// image.
template <class T>
__device__ inline void load_cells(const WindowProductParams& p, const WindowPosition& position,
                                  int top, int left, int rows, int columns, int pitch,
                                  int first_row, int first_column, int band_rows, int band_columns,
                                  float* shared) {
  const int window = static_cast<int>(p.window_size);
  const int width = static_cast<int>(p.grid.width);
  const SmallDivisor cells_per_query(band_rows * band_columns);
  const SmallDivisor cells_per_row(band_columns);
  const SmallDivisor queries_per_row(columns);
  for (int i = threadIdx.x; i < rows * columns * cells_per_query.divisor; i += kWindowThreads) {
    const int query = cells_per_query.quotient(i);
    const int cell = i - query * cells_per_query.divisor;
    const int y = queries_per_row.quotient(query);
    const int x = query - y * columns;
    const int cell_row = cells_per_row.quotient(cell);
    const int dy = first_row + cell_row;
    const int dx = first_column + cell - cell_row * band_columns;
    RawElement<T> value;
    if (inside(p.grid, top + y, left + x) &&
        inside(p.grid, top + y + dy - window / 2, left + x + dx - window / 2)) {
      const T* from = token_of<const T>(p.cells, position, index_t{top + y} * width + left + x);
      value.load(from + (index_t{dy} * window + dx) * p.cells.stride[3]);
    }
    shared[(y * pitch + x) * cells_per_query.divisor + cell] = value.read();
  }
}

// window_gather (kToKeys = false) and window_scatter (true): weights are the cells of a query, and
// a sum's source in direction (dy, dx) of the window is the key there, or the query that has it
// there. Each thread sums up to kWindowItems runs of four channels.
template <class T, bool kToKeys>
__device__ inline void window_sums(const WindowProductParams& p) {
  const View<4>& from = kToKeys ? p.queries : p.keys;
  const View<4>& to = kToKeys ? p.keys : p.queries;
  const WindowTile& tile = p.tile;
  const int window = static_cast<int>(p.window_size);
  const int depth = static_cast<int>(from.shape[3]);
  const int width = static_cast<int>(p.grid.width);
  const bool load_runs = has_runs<T, kWindowRun>(from);
  const bool store_runs = has_runs<T, kWindowRun>(to);
  const SmallDivisor runs_per_token(tile.channels / kWindowRun);
  const SmallDivisor tokens_per_row(tile.columns);
  const int items = tile.rows * tile.columns * runs_per_token.divisor;
  const index_t channel_tiles = (depth + tile.channels - 1) / tile.channels;
  const index_t tiles = p.cells.shape[0] * p.cells.shape[1] * window_tiles_down(p) *
                        window_tiles_across(p) * channel_tiles;
  float* sources = dynamic_shared<float>();
  float* weights = sources + (tile.rows + tile.band_rows - 1) * tile.pitch * tile.token_stride;
  const int weight_pitch = kToKeys ? tile.pitch : tile.columns;

  for (index_t work = blockIdx.x; work < tiles; work += gridDim.x) {
    const WindowPosition position(p, work / channel_tiles);
    const int first_channel = static_cast<int>(work % channel_tiles) * tile.channels;
    float sum[kWindowItems][kWindowRun] = {};
    for (int first_row = 0; first_row < window; first_row += tile.band_rows) {
      const int band_rows = smaller(tile.band_rows, window - first_row);
      const int rows = tile.rows + band_rows - 1;
      for (int first_column = 0; first_column < window; first_column += tile.band_columns) {
        const int band_columns = smaller(tile.band_columns, window - first_column);
        const int columns = tile.columns + band_columns - 1;
        const int top = kToKeys ? position.top + window / 2 - (first_row + band_rows - 1)
                                : position.top + first_row - window / 2;
        const int left = kToKeys ? position.left + window / 2 - (first_column + band_columns - 1)
                                 : position.left + first_column - window / 2;
        __syncthreads();  // all have left the previous band
        load_tokens<T>(p, from, position, top, left, rows, columns, tile.pitch, first_channel,
                       load_runs, sources);
        load_cells<T>(p, position, kToKeys ? top : position.top, kToKeys ? left : position.left,
                      kToKeys ? rows : tile.rows, kToKeys ? columns : tile.columns, weight_pitch,
                      first_row, first_column, band_rows, band_columns, weights);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kWindowItems; ++k) {
          const int item = static_cast<int>(threadIdx.x) + k * kWindowThreads;
          if (item >= items) continue;
          const int token = runs_per_token.quotient(item);
          const int channel = (item - token * runs_per_token.divisor) * kWindowRun;
          const int y = tokens_per_row.quotient(token);
          const int x = token - y * tile.columns;
          for (int row = 0; row < band_rows; ++row) {
            const int source_row = (y + (kToKeys ? band_rows - 1 - row : row)) * tile.pitch;
            for (int column = 0; column < band_columns; ++column) {
              const int source = source_row + x + (kToKeys ? band_columns - 1 - column : column);
              const int weight = kToKeys ? source : y * tile.columns + x;
              const float scale = weights[(weight * band_rows + row) * band_columns + column];
              const WindowRun run = *reinterpret_cast<const WindowRun*>(
                  sources + source * tile.token_stride + channel);
#pragma unroll
              for (int i = 0; i < kWindowRun; ++i) sum[k][i] += scale * run.values[i];
            }
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kWindowItems; ++k) {
      const int item = static_cast<int>(threadIdx.x) + k * kWindowThreads;
      if (item >= items) continue;
      const int token = runs_per_token.quotient(item);
      const int channel = first_channel + (item - token * runs_per_token.divisor) * kWindowRun;
      const int row = tokens_per_row.quotient(token);
      const int y = position.top + row;
      const int x = position.left + token - row * tile.columns;
      if (!inside(p.grid, y, x) || channel >= depth) continue;
      store_run(token_of<T>(to, position, index_t{y} * width + x) + channel * to.stride[3],
                to.stride[3], depth - channel, store_runs, sum[k]);
    }
  }
}

}  // namespace device

// Block (kWindowThreads), shared: keys of a band, queries. Grid: tiles of tokens.
template <class T>
__global__ void __launch_bounds__(kWindowThreads, kWindowBlocks)
    window_correlate(WindowProductParams p) {
  const WindowTile& tile = p.tile;
  const int window = static_cast<int>(p.window_size);
  const int width = static_cast<int>(p.grid.width);
  const bool query_runs = device::has_runs<T, kWindowRun>(p.queries);
  const bool key_runs = device::has_runs<T, kWindowRun>(p.keys);
  const device::SmallDivisor queries_per_row(tile.columns);
  const index_t tiles = p.cells.shape[0] * p.cells.shape[1] * device::window_tiles_down(p) *
                        device::window_tiles_across(p);
  float* keys = device::dynamic_shared<float>();
  float* queries = keys + (tile.rows + tile.band_rows - 1) * tile.pitch * tile.token_stride;

  for (index_t work = blockIdx.x; work < tiles; work += gridDim.x) {
    const device::WindowPosition position(p, work);
    __syncthreads();  // all have left the previous queries
    device::load_tokens<T>(p, p.queries, position, position.top, position.left, tile.rows,
                           tile.columns, tile.columns, 0, query_runs, queries);
    for (int first_row = 0; first_row < window; first_row += tile.band_rows) {
      const int band_rows = device::smaller(tile.band_rows, window - first_row);
      for (int first_column = 0; first_column < window; first_column += tile.band_columns) {
        const int band_columns = device::smaller(tile.band_columns, window - first_column);
        const device::SmallDivisor cells_per_query(band_rows * band_columns);
        const device::SmallDivisor cells_per_row(band_columns);
        __syncthreads();  // all have left the previous keys
        device::load_tokens<T>(p, p.keys, position, position.top + first_row - window / 2,
                               position.left + first_column - window / 2, tile.rows + band_rows - 1,
                               tile.columns + band_columns - 1, tile.pitch, 0, key_runs, keys);
        __syncthreads();
        const int items = tile.rows * tile.columns * cells_per_query.divisor;
        for (int item = threadIdx.x; item < items; item += kWindowThreads) {
          const int query = cells_per_query.quotient(item);
          const int cell = item - query * cells_per_query.divisor;
          const int y = queries_per_row.quotient(query);
          const int x = query - y * tile.columns;
          if (!device::inside(p.grid, position.top + y, position.left + x)) continue;
          const int cell_row = cells_per_row.quotient(cell);
          const int cell_column = cell - cell_row * band_columns;
          const index_t j = index_t{first_row + cell_row} * window + first_column + cell_column;
          float score = p.outside;
          if (device::inside(p.grid, position.top + y + first_row + cell_row - window / 2,
                             position.left + x + first_column + cell_column - window / 2)) {
            const float* key =
                keys + ((y + cell_row) * tile.pitch + x + cell_column) * tile.token_stride;
            const float* own = queries + query * tile.token_stride;
            score = p.bias.present()
                        ? static_cast<const float*>(
                              p.bias.data)[position.head * p.bias.stride[0] + j * p.bias.stride[1]]
                        : 0.0f;
#pragma unroll 2
            for (int channel = 0; channel < tile.channels; channel += kWindowRun) {
              const auto a = *reinterpret_cast<const device::WindowRun*>(own + channel);
              const auto b = *reinterpret_cast<const device::WindowRun*>(key + channel);
#pragma unroll
              for (int i = 0; i < kWindowRun; ++i) score += a.values[i] * b.values[i];
            }
          }
          const index_t token = index_t{position.top + y} * width + position.left + x;
          from_float(score, device::token_of<T>(p.cells, position, token)[j * p.cells.stride[3]]);
        }
      }
    }
  }
}

// Block (kWindowThreads), shared: keys and cells of a band. Grid: (tiles of tokens, channels),
// channels fastest.
template <class T>
__global__ void __launch_bounds__(kWindowThreads, kWindowBlocks)
    window_gather(WindowProductParams p) {
  device::window_sums<T, false>(p);
}

// Block (kWindowThreads), shared: queries and cells of a band. Grid as window_gather's.
template <class T>
__global__ void __launch_bounds__(kWindowThreads, kWindowBlocks)
    window_scatter(WindowProductParams p) {
  device::window_sums<T, true>(p);
}

// workspace[slice, head, j] = sum over the (image, query) pairs of a slice of cells, where j is
// inside the image. Each thread sums one cell of every rows-th query, so a warp reads consecutive
// elements. Block (kWindowThreads). Grid: (slice, head, kWindowThreads cells), cells fastest.
template <class T>
__global__ void __launch_bounds__(kWindowThreads) window_bias_sums(WindowBiasSumsParams p) {
  __shared__ float sums[kWindowThreads];
  const index_t cells = p.window_size * p.window_size;
  const index_t heads = p.cells.shape[1];
  const index_t tokens = p.grid.size();
  const int block_cells = static_cast<int>(cells < kWindowThreads ? cells : kWindowThreads);
  const int rows = kWindowThreads / block_cells;
  const int row = static_cast<int>(threadIdx.x) / block_cells;
  const index_t groups = (cells + block_cells - 1) / block_cells;
  const index_t queries = p.cells.shape[0] * tokens;

  for (index_t work = blockIdx.x; work < p.slices * heads * groups; work += gridDim.x) {
    const index_t j = work % groups * block_cells + threadIdx.x % block_cells;
    const index_t head = work / groups % heads;
    const index_t slice = work / groups / heads;
    const index_t dy = j / p.window_size - p.window_size / 2;
    const index_t dx = j % p.window_size - p.window_size / 2;
    float sum = 0.0f;
    if (row < rows && j < cells) {
      for (index_t query = queries * slice / p.slices + row;
           query < queries * (slice + 1) / p.slices; query += rows) {
        const index_t token = query % tokens;
        const index_t y = token / p.grid.width + dy;
        const index_t x = token % p.grid.width + dx;
        if (y < 0 || y >= p.grid.height || x < 0 || x >= p.grid.width) continue;
        sum += to_float(static_cast<const T*>(
            p.cells.data)[query / tokens * p.cells.stride[0] + head * p.cells.stride[1] +
                          token * p.cells.stride[2] + j * p.cells.stride[3]]);
      }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (row == 0 && j < cells) {
      for (int other = 1; other < rows; ++other) sum += sums[other * block_cells + threadIdx.x];
      p.workspace[(slice * heads + head) * cells + j] = sum;
    }
    __syncthreads();  // before the next slice overwrites the sums
  }
}

}  // namespace transnext
