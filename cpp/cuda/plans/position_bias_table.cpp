#include "transnext/position_bias_table.h"

#include "cuda/kernels/bias/position_bias_table_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/partial_sums.h"
#include "cuda/plans/tiles.h"

namespace transnext {

LaunchPlan position_bias_table_plan(index_t heads, index_t positions) {
  const index_t tiles = ceil_divide(positions, kBiasTableLanes * kBiasTablePositions) *
                        ceil_divide(heads, kBiasTableHeads);
  return {{blocks_for(tiles), 1, 1}, {kBiasTableLanes, kBiasTableGroups, 1}, 0};
}

LaunchPlan position_bias_table_backward_plan(index_t heads, index_t hidden, index_t positions) {
  const index_t tiles = position_bias_table_slices(positions) *
                        ceil_divide(heads, kBiasTableHeads) *
                        ceil_divide(hidden, kBiasTableFeatures);
  return {{blocks_for(tiles), 1, 1}, {kBiasTableFeatures, 1, 1}, 0};
}

Launches launches(const PositionBiasTableParams& p, int) {
  Launches result;
  result.source = "cuda/kernels/bias/position_bias_table.cuh";
  result.add(kernel_name("position_bias_table_forward", p.table.dtype),
             position_bias_table_plan(p.table.shape[0], p.table.shape[1] * p.table.shape[2]), p);
  return result;
}

Launches launches(const PositionBiasTableBackwardParams& p, int) {
  const index_t heads = p.d_table.shape[0];
  const index_t hidden = p.fc1_weight.shape[0];
  const index_t positions = p.d_table.shape[1] * p.d_table.shape[2];
  const PositionBiasTablePartials partials = {heads, hidden, position_bias_table_slices(positions)};
  Launches result;
  result.source = "cuda/kernels/bias/position_bias_table.cuh";
  result.workspace = partials.size();
  result.add_with_workspace(kernel_name("position_bias_table_backward", p.d_table.dtype),
                            position_bias_table_backward_plan(heads, hidden, positions), p);
  const View<2>& d_fc1 = p.d_fc1_weight;  // partial sums are [axis, E], it is [E, axis]
  add_partial_sums(
      result, partials.fc1(), partials.fc1_rows(), 3 * hidden,
      {d_fc1.data, d_fc1.dtype, {1, 2, hidden}, {0, d_fc1.stride[1], d_fc1.stride[0]}});
  add_partial_sums(result, partials.fc1() + 2 * hidden, partials.fc1_rows(), 3 * hidden,
                   three_axes(p.d_fc1_bias));
  add_partial_sums(result, 0, partials.slices, heads * hidden, three_axes(p.d_fc2_weight));
  add_partial_sums(result, partials.fc2_bias(), partials.slices, heads, three_axes(p.d_fc2_bias));
  return result;
}

}  // namespace transnext
