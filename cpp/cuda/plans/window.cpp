#include "transnext/window.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "cuda/kernels/window/window_params.h"
#include "cuda/kernels/window/window_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/partial_sums.h"
#include "cuda/plans/tiles.h"

namespace transnext {
namespace {

// Tokens of a tile in each direction, if neither the image nor shared memory limits them.
constexpr int kTileRows = 8;
constexpr int kTileColumns = 16;
constexpr int kTileTokens = kTileRows * kTileColumns;
// At least two blocks of 8 warps then fit on every architecture, a third of its warps.
constexpr int kSharedFloats = 48 * 1024 / 4;
// Channels of a block in window_gather and window_scatter: other blocks compute the others.
constexpr int kTileChannels = 128;

constexpr index_t kMostSlices = 256;
constexpr index_t kSliceQueries = 2048;

enum class Product { kCorrelate, kGather, kScatter };

index_t shared_floats(Product product, const WindowTile& t) {
  const index_t rows = t.rows + t.band_rows - 1;
  const index_t operand = rows * t.pitch * t.token_stride;
  const index_t tokens = index_t{t.rows} * t.columns;
  const index_t cells = index_t{t.band_rows} * t.band_columns;
  switch (product) {
    case Product::kCorrelate:
      return operand + tokens * t.token_stride;
    case Product::kGather:
      return operand + tokens * cells;
    default:
      return operand + rows * t.pitch * cells;
  }
}

// Strides in shared memory that avoid bank conflicts (cuda/kernels/window/window.cuh).
void lay_out(Product product, WindowTile& t) {
  t.pitch = t.columns + t.band_columns - 1;
  t.token_stride = t.channels;
  if (product != Product::kCorrelate) return;
  if (t.channels / kWindowRun % 2 == 0) t.token_stride += kWindowRun;
  while (t.pitch % 8 != t.band_columns % 8) ++t.pitch;
}

// The largest tile that fits into shared memory with the whole window, or else the largest band of
// the window for a tile of one row.
WindowTile window_tile(Product product, Grid grid, index_t window, index_t channels) {
  WindowTile t = {};
  const index_t padded = ceil_divide(std::max<index_t>(channels, 1), kWindowRun) * kWindowRun;
  const index_t most = product == Product::kCorrelate ? kSharedFloats : kTileChannels;
  t.channels = static_cast<int>(std::min(padded, most));
  t.columns = static_cast<int>(std::min<index_t>(kTileColumns, grid.width));
  t.rows = static_cast<int>(std::min<index_t>(kTileTokens / t.columns, grid.height));
  t.band_rows = t.band_columns = static_cast<int>(window);
  const auto too_large = [&] {
    const index_t items = index_t{t.rows} * t.columns * t.channels / kWindowRun;
    lay_out(product, t);
    return shared_floats(product, t) > kSharedFloats ||
           (product != Product::kCorrelate && items > kWindowThreads * kWindowItems);
  };
  while (too_large()) {
    if (t.rows > 2 || (t.columns <= 4 && t.rows > 1)) {
      t.rows = (t.rows + 1) / 2;
    } else if (t.columns > 4) {
      t.columns = (t.columns + 1) / 2;
    } else if (t.band_rows > 1) {
      t.band_rows = (t.band_rows + 1) / 2;
    } else if (t.band_columns > 1) {
      t.band_columns = (t.band_columns + 1) / 2;
    } else if (t.columns > 1) {
      t.columns = (t.columns + 1) / 2;
    } else {
      throw std::invalid_argument("window_qk, window_av: the CUDA kernels take at most " +
                                  std::to_string(kSharedFloats / 2 - kWindowRun) +
                                  " channels, got " + std::to_string(channels));
    }
  }
  return t;
}

void add_product(Launches& launches, Product product, const View<4>& cells, const View<4>& queries,
                 const View<4>& keys, const View<2>& bias, float outside, Grid grid,
                 index_t window) {
  const char* names[] = {"window_correlate", "window_gather", "window_scatter"};
  const index_t channels = queries.shape[3];
  const WindowTile tile = window_tile(product, grid, window, channels);
  index_t tiles = cells.shape[0] * cells.shape[1] * ceil_divide(grid.height, tile.rows) *
                  ceil_divide(grid.width, tile.columns);
  if (product != Product::kCorrelate) tiles *= ceil_divide(channels, tile.channels);
  const LaunchPlan plan = {{blocks_for(tiles), 1, 1},
                           {kWindowThreads, 1, 1},
                           static_cast<unsigned>(shared_floats(product, tile) * sizeof(float))};
  launches.add(kernel_name(names[static_cast<int>(product)], cells.dtype), plan,
               WindowProductParams{cells, queries, keys, bias, outside, grid, window, tile});
}

Launches window_launches() {
  Launches result;
  result.source = "cuda/kernels/window/window.cuh";
  return result;
}

}  // namespace

Launches launches(const WindowQkParams& p, int) {
  Launches result = window_launches();
  add_product(result, Product::kCorrelate, p.attn, p.q, p.k, p.bias,
              -std::numeric_limits<float>::infinity(), p.grid, p.window_size);
  return result;
}

Launches launches(const WindowQkBackwardParams& p, int) {
  Launches result = window_launches();
  if (p.d_q.present())
    add_product(result, Product::kGather, p.d_attn, p.d_q, p.k, {}, 0.0f, p.grid, p.window_size);
  if (p.d_k.present())
    add_product(result, Product::kScatter, p.d_attn, p.q, p.d_k, {}, 0.0f, p.grid, p.window_size);
  if (p.d_bias.present()) {
    const index_t heads = p.d_attn.shape[1];
    const index_t cells = p.window_size * p.window_size;
    const index_t slices =
        std::min(ceil_divide(p.d_attn.shape[0] * p.grid.size(), kSliceQueries), kMostSlices);
    const index_t groups = ceil_divide(cells, std::min<index_t>(cells, kWindowThreads));
    const LaunchPlan plan = {
        {blocks_for(slices * heads * groups), 1, 1}, {kWindowThreads, 1, 1}, 0};
    result.workspace = slices * heads * cells;
    result.add_with_workspace(
        kernel_name("window_bias_sums", p.d_attn.dtype), plan,
        WindowBiasSumsParams{p.d_attn, nullptr, slices, p.grid, p.window_size});
    add_partial_sums(result, 0, slices, heads * cells, three_axes(p.d_bias));
  }
  return result;
}

Launches launches(const WindowAvParams& p, int) {
  Launches result = window_launches();
  add_product(result, Product::kGather, p.attn, p.out, p.v, {}, 0.0f, p.grid, p.window_size);
  return result;
}

Launches launches(const WindowAvBackwardParams& p, int) {
  Launches result = window_launches();
  if (p.d_attn.present())
    add_product(result, Product::kCorrelate, p.d_attn, p.d_out, p.v, {}, 0.0f, p.grid,
                p.window_size);
  if (p.d_v.present())
    add_product(result, Product::kScatter, p.attn, p.d_out, p.d_v, {}, 0.0f, p.grid, p.window_size);
  return result;
}

}  // namespace transnext
