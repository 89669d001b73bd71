#include "transnext/aggregated_attention.h"

#include <stdexcept>
#include <string>

#include "cuda/plans/attention_tiles.h"
#include "transnext/attention_launch.h"
#include "transnext/launches.h"

namespace transnext {

namespace {

// Of these many pooled keys on the bias table is most of what a wide tile reads.
constexpr index_t kManyPooledKeys = 256;

// Queries that tiles of a size have room for.
index_t room(const TileSize& tile, Grid grid) {
  return ceil_divide(grid.height, tile.rows) * tile.rows * ceil_divide(grid.width, tile.columns) *
         tile.columns;
}

// The kernels count in int what lies in one image and head.
void check_strides(const char* name, const View<4>& view) {
  constexpr index_t kMost = 0x7fffffff;
  for (const int axis : {1, 3}) {
    if (view.present() && (view.stride[axis] > kMost || view.stride[axis] < -kMost))
      throw std::invalid_argument(std::string("aggregated_attention: ") + name +
                                  " has a stride of " + std::to_string(view.stride[axis]) +
                                  " elements; the CUDA kernels take less than 2^31");
  }
}

}  // namespace

AttentionPlan aggregated_attention_plan(DType dtype, index_t batch, index_t heads, index_t channels,
                                        Grid grid, Grid pool_grid, index_t window_size,
                                        bool has_bias, bool ring_bias, bool allow_tf32,
                                        int architecture) {
  AttentionPlan plan;
  plan.channels = padded_channels(channels);
  plan.window = window_size == 0                          ? kNoWindow
                : window_size == 3 && plan.channels == 24 ? 3
                                                          : kAnyWindow;
  const bool is_float = dtype == DType::kFloat32;
  plan.tensor_float = allow_tf32 && is_float && plan.channels == 24 && architecture >= 80;
  const ForwardKind kind{is_float ? 4 : 2, !is_float || plan.tensor_float};
  const auto use = [&](const char* name, const TileSize& tile, bool with_ring) {
    const auto layout = [&](BiasRing ring) {
      return ForwardLayout(plan.channels, kind, tile, plan.window, has_bias, ring, pool_grid.height,
                           pool_grid.width);
    };
    BiasRing ring = with_ring ? bias_ring(grid, pool_grid, tile) : BiasRing{};
    if (layout(ring).bytes > most_shared_bytes(architecture)) ring = BiasRing{};
    const ForwardLayout at = layout(ring);
    ring.first_rows = at.first_rows;
    ring.first_columns = at.first_columns;
    const index_t tiles = batch * heads * (room(tile, grid) / tile.queries());
    plan.tile = name;
    plan.bias_ring = ring;
    plan.launch = {{one_block_each("aggregated_attention", tiles), 1, 1},
                   {static_cast<unsigned>(tile.queries()), 1, 1},
                   static_cast<unsigned>(at.bytes)};
  };
  // Large and wide tiles where they leave few of their threads idle.
  if (plan.window == 3 && ring_bias && pool_grid.size() >= kManyPooledKeys &&
      5 * room(LargeTile::kSize, grid) <= 6 * room(WideTile::kSize, grid)) {
    use("LargeTile", LargeTile::kSize, true);
    if (plan.bias_ring.rows > 0) return plan;
  }
  if (plan.window == 3 && 3 * room(WideTile::kSize, grid) <= 4 * room(SmallTile::kSize, grid)) {
    use("WideTile", WideTile::kSize, ring_bias);
  } else {
    use("SmallTile", SmallTile::kSize, ring_bias);
  }
  return plan;
}

Launches launches(const AggregatedAttentionParams& p, int architecture) {
  const AggregatedAttentionInputs& in = p.in;
  check_strides("q", in.q);
  check_strides("k", in.k);
  check_strides("v", in.v);
  check_strides("k_pool", in.k_pool);
  check_strides("v_pool", in.v_pool);
  const AttentionPlan plan = aggregated_attention_plan(
      in.q.dtype, in.q.shape[0], in.q.shape[2], in.q.shape[3], in.grid, in.pool_grid,
      in.window_size, in.pool_bias.values.present(),
      in.pool_bias.table() && !in.pool_bias.col_weights.present(), p.allow_tf32, architecture);
  Launches result;
  result.source = "device/aggregated_attention_forward.cuh";
  const std::string rest =
      std::to_string(plan.channels) + ", " + std::to_string(plan.window) + ", " + plan.tile;
  const char* name = "aggregated_attention_forward";
  result.add(plan.tensor_float ? kernel_name(name, "TensorFloat32", rest)
                               : kernel_name(name, in.q.dtype, rest),
             plan.launch, AttentionForwardLaunch{p, plan.bias_ring});
  return result;
}

}  // namespace transnext
