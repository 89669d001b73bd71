// The launches of aggregated_attention's backward.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/shape.h"
#include "cuda/plans/attention_tiles.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/tiles.h"
#include "transnext/aggregated_attention.h"

namespace transnext {
namespace {

using Params = AggregatedAttentionBackwardParams;
using Launch = AggregatedAttentionBackwardLaunch;

constexpr const char* kOp = "aggregated_attention_backward";

// Blocks wanted for the pooled side, and the fewest queries that a block is worth.
constexpr index_t kPooledBlocks = 2048;
constexpr index_t kLeastSliceQueries = 256;

// "name<T, d>"
std::string kernel(const char* part, const Params& p) {
  return kernel_name((std::string(kOp) + part).c_str(), p.in.q.dtype,
                     std::to_string(padded_channels(p.in.q.shape[3])));
}

// Shared memory that a block may use if a multiprocessor is to hold blocks with at least a quarter
// of its threads.
int wanted_shared_bytes(int architecture) {
  const int most = most_shared_bytes(architecture);
  return architecture < 80 ? most : most / 2 - 1024;
}

TileLayout tile_layout(const Params& p, index_t tile_height, index_t tile_width) {
  const index_t window = p.in.window_size;
  const index_t reach = window > 0 ? window - 1 : 0;
  // Of the tile and what is that far beyond.
  const auto tokens = [&](index_t beyond) {
    return std::min(tile_height + beyond, p.in.grid.height) *
           std::min(tile_width + beyond, p.in.grid.width);
  };
  return {padded_channels(p.in.q.shape[3]),
          element_bytes(p.in.q.dtype),
          window * window,
          tile_height * tile_width,
          tokens(reach),
          window > 0 ? tokens(2 * reach) : 0};
}

// The rectangle of tokens with the least work for the grid, among those whose blocks fit.
void choose_tile(const Params& p, int architecture, AttentionBackwardPlan& plan) {
  constexpr index_t kMostSide = 16;
  const Grid grid = p.in.grid;
  const index_t reach = std::max<index_t>(p.in.window_size - 1, 0);
  // Cost of a block: its queries with their halo, 16 at a time, the keys they see, and all pooled
  // keys, which it loads however few queries it has.
  const auto work = [&](index_t height, index_t width) {
    const index_t queries =
        std::min(height + reach, grid.height) * std::min(width + reach, grid.width);
    const index_t keys =
        std::min(height + 2 * reach, grid.height) * std::min(width + 2 * reach, grid.width);
    return ceil_divide(grid.height, height) * ceil_divide(grid.width, width) *
           (4 * 16 * ceil_divide(queries, 16) + keys + 4 * height * width +
            2 * p.in.k_pool.shape[1]);
  };
  for (const int limit : {wanted_shared_bytes(architecture), most_shared_bytes(architecture)}) {
    index_t least = 0;
    for (index_t height = 1; height <= std::min(kMostSide, grid.height); ++height) {
      for (index_t width = 1; width <= std::min(kMostSide, grid.width); ++width) {
        if (height * width > kAttentionMostTokens) continue;
        const index_t its_work = work(height, width);
        if (least > 0 && its_work >= least) continue;
        const TileLayout tile = tile_layout(p, height, width);
        if (tile.bytes > limit) continue;
        least = its_work;
        plan.tile_height = static_cast<int>(height);
        plan.tile_width = static_cast<int>(width);
        plan.tile = tile;
      }
    }
    if (least == 0) continue;
    plan.tiles_y = static_cast<int>(ceil_divide(grid.height, plan.tile_height));
    plan.tiles_x = static_cast<int>(ceil_divide(grid.width, plan.tile_width));
    return;
  }
  throw std::invalid_argument(std::string(kOp) + ": the CUDA kernels take smaller windows than " +
                              std::to_string(p.in.window_size) + " with head dim " +
                              std::to_string(p.in.q.shape[3]) + ", what fits into shared memory");
}

// The height of strips of which `across` lie side by side: the one that takes the least time on
// multiprocessors that run kBlocks blocks at once, the highest of several.
index_t strip_height(index_t height, index_t rows, index_t across) {
  constexpr index_t kBlocks = 256;
  constexpr index_t kBeginning = 1;  // what a block loads first takes as long as so many steps
  const index_t whole = height / rows + 1;  // steps of a strip as high as the image
  index_t best = height;
  index_t least = 0;
  for (index_t steps = whole; steps > 0; --steps) {
    // Others compute the row above and the row below too.
    const index_t tile = steps == whole ? height : steps * rows - 2;
    const index_t time =
        std::max(across * ceil_divide(height, tile), kBlocks) * (steps + kBeginning);
    if (least > 0 && time >= least) continue;
    least = time;
    best = tile;
  }
  return best;
}

// Chooses strips, with the most rows in a step that fit. Where these are the most of all and leave room
// for it, strips own the pooled keys' gradients. Returns false where tiles are no strips.
bool choose_strips(const Params& p, int architecture, bool pooled_side,
                   AttentionBackwardPlan& plan) {
  const int dim = padded_channels(p.in.q.shape[3]);
  if (element_bytes(p.in.q.dtype) != 2 || p.in.window_size != 3 || dim > 32) return false;
  const StripLayout with_pooled(dim, kStripMostRows, true);
  if (pooled_side && strips_may_own_pooled(dim) && p.in.k_pool.shape[1] <= kPooledChunkKeys &&
      with_pooled.bytes <= wanted_shared_bytes(architecture)) {
    plan.strip = with_pooled;
    plan.strip_rows = kStripMostRows;
    plan.strip_pooled = true;
  }
  for (const int limit : {wanted_shared_bytes(architecture), most_shared_bytes(architecture)}) {
    for (const int rows : {kStripMostRows, kStripFewerRows}) {
      const StripLayout layout(dim, rows, false);
      if (plan.strip_rows > 0 || layout.bytes > limit) continue;
      plan.strip = layout;
      plan.strip_rows = rows;
    }
  }
  if (plan.strip_rows == 0) return false;
  const index_t height = p.in.grid.height;
  plan.tiles_x = static_cast<int>(ceil_divide(p.in.grid.width, kStripColumns - 2));
  plan.tile_width = kStripColumns - 2;
  plan.tile_height = static_cast<int>(
      strip_height(height, plan.strip_rows, p.in.q.shape[0] * p.in.q.shape[2] * plan.tiles_x));
  plan.tiles_y = static_cast<int>(ceil_divide(height, plan.tile_height));
  return true;
}

// Checks the [B, N, h, d] tensors, and returns whether their rows are whole aligned vectors.
bool rows_are_vectors(const Params& p) {
  check_strides(kOp, p.in);
  bool result = rows_are_vectors(p.in);
  const auto add = [&](const char* name, const View<4>& view) {
    check_strides(kOp, name, view);
    result = result && rows_are_vectors(view);
  };
  add("d_out", p.d_out);
  add("d_q", p.d_q);
  add("d_k", p.d_k);
  add("d_v", p.d_v);
  add("d_k_pool", p.d_k_pool);
  add("d_v_pool", p.d_v_pool);
  return result;
}

unsigned pooled_shared_bytes(const Params& p) {
  const int bytes = element_bytes(p.in.q.dtype);
  const int dim = padded_channels(p.in.q.shape[3]);
  const int queries = attention_pooled_queries(dim, bytes) * attention_pooled_buffers(dim, bytes);
  constexpr int kTermBytes = 16 + 16;
  return 2 * (kAttentionPoolTile + queries) * row_bytes(dim, bytes) + queries * kTermBytes;
}

}  // namespace

Launches launches(const AggregatedAttentionBackwardParams& p, int architecture) {
  Launches result;
  result.source = "cuda/kernels/attention/backward/aggregated_attention_backward.cuh";
  const index_t batches = p.in.q.shape[0];
  const index_t tokens = p.in.q.shape[1];
  const index_t heads = p.in.q.shape[2];
  const index_t channels = p.in.q.shape[3];
  const index_t pooled = p.in.k_pool.shape[1];
  const index_t cells = p.in.window_size * p.in.window_size;
  const bool table_gradient = p.d_pool_bias.present() && p.in.pool_bias.table();
  const bool dense_gradient = p.d_pool_bias.present() && p.in.pool_bias.dense();
  const bool pooled_gradients = p.d_k_pool.present() || p.d_v_pool.present();

  Launch launch = {p, {}, nullptr};
  AttentionBackwardPlan& plan = launch.plan;
  plan.vectors = rows_are_vectors(p);
  plan.table_atomics = table_gradient && !p.deterministic;
  const bool pooled_side = pooled_gradients || plan.table_atomics;
  const bool strips = choose_strips(p, architecture, pooled_side, plan);
  if (!strips) choose_tile(p, architecture, plan);
  const index_t tiles = index_t{plan.tiles_y} * plan.tiles_x;
  const index_t key_tiles = ceil_divide(pooled, kAttentionPoolTile);
  const index_t pairs = batches * heads;
  // More blocks than a device runs at a time leave less of it idle at the end. A slice is long
  // enough that a block's prologue and its partial sums are a small part of its work.
  const index_t bearable = tokens / kLeastSliceQueries;
  const index_t wanted = ceil_divide(kPooledBlocks, std::max<index_t>(pairs * key_tiles, 1));
  const index_t slice = ceil_divide(tokens, std::max<index_t>(std::min(wanted, bearable), 1));
  const int tile = attention_pooled_queries(padded_channels(channels), element_bytes(p.in.q.dtype));
  plan.slice = static_cast<int>(ceil_divide(slice, tile) * tile);
  plan.slices = static_cast<int>(plan.strip_pooled ? tiles : ceil_divide(tokens, plan.slice));
  if (p.d_scale.present() || p.d_query_embedding.present() || p.d_local_bias.present() ||
      p.d_token_bias.present() || p.d_tokens.present())
    plan.parameters =
        static_cast<int>(1 + channels + 2 * cells + (p.d_tokens.present() ? channels * cells : 0));
  const auto reserve = [&](index_t& offset, index_t count) {
    offset = result.workspace;
    result.workspace += count;
  };
  const bool ordered_rows = table_gradient && !plan.table_atomics;
  const bool pooled_kernel = pooled_side && !plan.strip_pooled;
  plan.query_terms_stay = pooled_kernel || dense_gradient || ordered_rows;
  reserve(plan.query_terms, plan.query_terms_stay ? pairs * tokens * 4 : 0);
  reserve(plan.parameter_sums, pairs * tiles * plan.parameters);
  reserve(plan.pooled_sums, pooled_side ? plan.slices * pairs * pooled * 2 * channels : 0);
  reserve(
      plan.row_sums,
      ordered_rows ? heads * p.in.grid.height * p.in.pool_grid.height * p.d_pool_bias.shape[2] : 0);

  const auto blocks = [](index_t count) { return one_block_each(kOp, count); };
  constexpr unsigned kSumThreads = kAttentionSumLanes * kAttentionSumRows;
  const auto threads = static_cast<unsigned>(strips ? 32 * plan.strip_rows : kAttentionTileThreads);
  const auto shared_bytes = static_cast<unsigned>(strips ? plan.strip.bytes : plan.tile.bytes);
  const LaunchPlan table_sums = {
      {blocks(table_gradient ? ceil_divide(heads * p.d_pool_bias.shape[1] * p.d_pool_bias.shape[2],
                                           kSumThreads)
                             : 0),
       1, 1},
      {kSumThreads, 1, 1},
      0};
  if (plan.table_atomics)  // zeros
    result.add_with_workspace("aggregated_attention_backward_table_sums<float>", table_sums,
                              launch);
  const char* owner = plan.strip_pooled ? "_pooled_strips" : strips ? "_strips" : "_tiles";
  result.add_with_workspace(kernel(owner, p),
                            {{blocks(pairs * tiles), 1, 1}, {threads, 1, 1}, shared_bytes}, launch);
  if (plan.parameters > 0)
    result.add_with_workspace(
        "aggregated_attention_backward_parameter_sums<float>",
        {{blocks(heads * ceil_divide(plan.parameters, kAttentionSumLanes)), 1, 1},
         {kAttentionSumLanes, kAttentionSumRows, 1},
         0},
        launch);
  if (pooled_kernel)
    result.add_with_workspace(kernel("_pooled", p),
                              {{blocks(pairs * plan.slices * key_tiles), 1, 1},
                               {kAttentionPooledThreads, 1, 1},
                               pooled_shared_bytes(p)},
                              launch);
  if (pooled_gradients)
    result.add_with_workspace(
        kernel_name("aggregated_attention_backward_pooled_sums", p.in.q.dtype),
        {{blocks(ceil_divide(pairs * pooled, kAttentionSumRows)), 1, 1},
         {kAttentionSumLanes, kAttentionSumRows, 1},
         0},
        launch);
  if (dense_gradient || ordered_rows) {
    constexpr index_t kWarps = kAttentionBiasThreads / 32;
    const index_t parts = ceil_divide(p.in.pool_grid.height, kWarps);
    const index_t row = dense_gradient ? 0 : p.d_pool_bias.shape[2];
    result.add_with_workspace(kernel_name("aggregated_attention_backward_bias", p.in.q.dtype),
                              {{blocks(heads * p.in.grid.height * parts), 1, 1},
                               {kAttentionBiasThreads, 1, 1},
                               static_cast<unsigned>(kWarps * row * 4)},
                              launch);
  }
  if (ordered_rows)
    result.add_with_workspace("aggregated_attention_backward_table_sums<float>", table_sums,
                              launch);
  return result;
}

}  // namespace transnext
