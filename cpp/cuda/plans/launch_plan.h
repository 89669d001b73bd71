// How a CUDA kernel is launched: one pure function of the sizes per operator, used by the compiled
// launches and by everything that runs the kernels another way.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct LaunchPlan {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;  // dynamic shared memory

  // Whether there is nothing to compute: no launch.
  bool empty() const { return grid[0] == 0 || grid[1] == 0; }
};

LaunchPlan gelu_pool_plan(index_t batch, index_t channels, Grid grid, Grid pool_grid);
LaunchPlan gelu_pool_backward_plan(index_t batch, index_t channels, Grid grid);

LaunchPlan conv_glu_plan(index_t batch, index_t hidden, Grid grid);
LaunchPlan conv_glu_backward_plan(index_t batch, index_t hidden, Grid grid);

LaunchPlan position_bias_table_plan(index_t heads, index_t positions);
LaunchPlan position_bias_table_backward_plan(index_t heads, index_t hidden, index_t positions);

}  // namespace transnext
