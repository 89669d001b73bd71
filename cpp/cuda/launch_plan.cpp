#include "transnext/launch_plan.h"

#include <algorithm>

#include "device/gelu_pool_shape.h"

namespace transnext {
namespace {

// Blocks along x, the only grid dimension that takes more than 65535. Kernels step on by the grid's
// size, so a launch of fewer blocks than there are tiles is right too.
unsigned blocks_for(index_t tiles) {
  constexpr index_t kMostBlocks = (index_t{1} << 31) - 1;
  return static_cast<unsigned>(std::min(tiles, kMostBlocks));
}

index_t ceil_divide(index_t value, index_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace

LaunchPlan gelu_pool_plan(index_t batch, index_t channels, Grid grid, Grid pool_grid) {
  // As many rows of threads as share a bin's cells: a power of two, at most kGeluPoolRows.
  const index_t cells = (ceil_divide(grid.height, pool_grid.height) + 1) *
                        (ceil_divide(grid.width, pool_grid.width) + 1);
  unsigned rows = 1;
  while (rows < kGeluPoolRows && rows < cells) rows *= 2;
  const index_t tiles = batch * pool_grid.size() * ceil_divide(channels, kGeluPoolLanes);
  return {{blocks_for(tiles), 1, 1}, {kGeluPoolLanes, rows, 1}, 0};
}

LaunchPlan gelu_pool_backward_plan(index_t batch, index_t channels, Grid grid) {
  const index_t tiles =
      batch * ceil_divide(grid.size(), kGeluPoolRows) * ceil_divide(channels, kGeluPoolLanes);
  return {{blocks_for(tiles), 1, 1}, {kGeluPoolLanes, kGeluPoolRows, 1}, 0};
}

}  // namespace transnext
