#include "transnext/aggregated_attention.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda/kernels/attention/forward/launch.h"
#include "cuda/plans/attention_tiles.h"
#include "cuda/plans/launches.h"

namespace transnext {

namespace {

// Query slots in all tiles of a size.
index_t room(const TileSize& tile, Grid grid) {
  return ceil_divide(grid.height, tile.rows) * tile.rows * ceil_divide(grid.width, tile.columns) *
         tile.columns;
}

// Whether the offset of a head's bias is the sum of a query's and a key's, as far as the host can
// tell, and fits an int.
bool may_be_in_place(const PoolBias& bias) {
  const View<3>& values = bias.values;
  const index_t entries = std::abs(values.stride[1]) * (values.shape[1] - 1) +
                          std::abs(values.stride[2]) * (values.shape[2] - 1);
  const bool sums = bias.dense() || (bias.table() && !bias.col_weights.present());
  return sums && entries <= 0x7fffffff;
}

}  // namespace

AttentionPlan aggregated_attention_plan(DType dtype, index_t batch, index_t heads, index_t channels,
                                        Grid grid, index_t window_size, bool has_bias,
                                        bool allow_tf32, int architecture) {
  AttentionPlan plan;
  plan.channels = padded_channels(channels);
  plan.window = kAnyWindow;
  if (plan.channels == 24 && window_size == 0) plan.window = kNoWindow;
  if (plan.channels == 24 && window_size == 3) plan.window = 3;
  const bool is_float = dtype == DType::kFloat32;
  plan.tensor_float = allow_tf32 && is_float && plan.channels == 24 && architecture >= 80;
  const ForwardKind kind{is_float ? 4 : 2, !is_float || plan.tensor_float};
  const auto use = [&](const char* name, const TileSize& tile) {
    const ForwardLayout at(plan.channels, kind, tile, plan.window, has_bias);
    const index_t tiles = batch * heads * (room(tile, grid) / tile.queries());
    plan.tile = name;
    plan.launch = {{one_block_each("aggregated_attention", tiles), 1, 1},
                   {static_cast<unsigned>(tile.queries()), 1, 1},
                   static_cast<unsigned>(at.bytes)};
  };
  // Larger tiles where they leave few threads idle and such a kernel exists.
  const index_t small_room = room(SmallTile::kSize, grid);
  const bool has_medium = plan.window == kNoWindow || (plan.window == 3 && kind.element == 2);
  if (plan.window == 3 && 3 * room(WideTile::kSize, grid) <= 4 * small_room) {
    use("WideTile", WideTile::kSize);
  } else if (has_medium && 3 * room(MediumTile::kSize, grid) <= 4 * small_room) {
    use("MediumTile", MediumTile::kSize);
  } else {
    use("SmallTile", SmallTile::kSize);
  }
  return plan;
}

Launches launches(const AggregatedAttentionParams& p, int architecture) {
  const AggregatedAttentionInputs& in = p.in;
  check_strides("aggregated_attention", in);
  const AttentionPlan plan = aggregated_attention_plan(
      in.q.dtype, in.q.shape[0], in.q.shape[2], in.q.shape[3], in.grid, in.window_size,
      in.pool_bias.values.present(), p.allow_tf32, architecture);
  Launches result;
  result.source = "cuda/kernels/attention/forward/aggregated_attention_forward.cuh";
  const std::string rest =
      std::to_string(plan.channels) + ", " + std::to_string(plan.window) + ", " + plan.tile;
  const char* name = "aggregated_attention_forward";
  result.add(plan.tensor_float ? kernel_name(name, "TensorFloat32", rest)
                               : kernel_name(name, in.q.dtype, rest),
             plan.launch,
             AttentionForwardLaunch{p, may_be_in_place(in.pool_bias),
                                    rows_are_vectors(in) && rows_are_vectors(p.out)});
  return result;
}

}  // namespace transnext
