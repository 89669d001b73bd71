#include "transnext/aggregated_attention.h"

#include <stdexcept>
#include <string>

#include "cuda/plans/attention_tiles.h"
#include "transnext/attention_launch.h"
#include "transnext/launches.h"

namespace transnext {

AttentionPlan aggregated_attention_plan(DType dtype, index_t batch, index_t heads, index_t channels,
                                        Grid grid, Grid pool_grid, index_t window_size,
                                        bool has_bias, bool ring_bias, int architecture) {
  AttentionPlan plan;
  plan.channels = padded_channels(channels);
  plan.window = window_size == 3 && plan.channels == 24 ? 3 : 0;
  plan.wide = plan.window == 3 && fits_wide_tile(grid);
  const int rows = plan.wide ? WideTile::kRows : SmallTile::kRows;
  const int columns = plan.wide ? WideTile::kColumns : SmallTile::kColumns;
  const int element = dtype == DType::kFloat32 ? 4 : 2;
  const auto layout = [&](BiasRing ring) {
    return ForwardLayout(plan.channels, element, rows, columns, plan.window, has_bias, ring,
                         pool_grid.height, pool_grid.width);
  };
  if (ring_bias && plan.wide) {
    const BiasRing ring = bias_ring(grid, pool_grid, rows, columns);
    if (layout(ring).bytes <= most_shared_bytes(architecture)) plan.bias_ring = ring;
  }
  const index_t tiles =
      batch * heads * ceil_divide(grid.height, rows) * ceil_divide(grid.width, columns);
  plan.launch = {{one_block_each("aggregated_attention", tiles), 1, 1},
                 {static_cast<unsigned>(rows * columns), 1, 1},
                 static_cast<unsigned>(layout(plan.bias_ring).bytes)};
  return plan;
}

Launches launches(const AggregatedAttentionParams& p, int architecture) {
  const AggregatedAttentionInputs& in = p.in;
  const AttentionPlan plan = aggregated_attention_plan(
      in.q.dtype, in.q.shape[0], in.q.shape[2], in.q.shape[3], in.grid, in.pool_grid,
      in.window_size, in.pool_bias.values.present(),
      in.pool_bias.table() && !in.pool_bias.col_weights.present(), architecture);
  Launches result;
  result.source = "device/aggregated_attention_forward.cuh";
  const std::string rest = std::to_string(plan.channels) + ", " + std::to_string(plan.window) +
                           (plan.wide ? ", WideTile" : ", SmallTile");
  result.add(kernel_name("aggregated_attention_forward", in.q.dtype, rest), plan.launch,
             AttentionForwardLaunch{p, plan.bias_ring});
  return result;
}

}  // namespace transnext
