// How a CUDA kernel is launched: one pure function of the sizes per operator, used by the compiled
// launches and by everything that runs the kernels another way.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct LaunchPlan {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;  // dynamic shared memory

  bool empty() const { return grid[0] == 0; }  // nothing to compute: no launch
};

LaunchPlan gelu_pool_plan(index_t batch, index_t channels, Grid grid, Grid pool_grid);
LaunchPlan gelu_pool_backward_plan(index_t batch, index_t channels, Grid grid);

}  // namespace transnext
