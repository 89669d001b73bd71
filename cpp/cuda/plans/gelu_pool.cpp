#include "transnext/gelu_pool.h"

#include "cuda/kernels/pool/gelu_pool_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/tiles.h"

namespace transnext {
namespace {

// Several per multiprocessor of the largest GPUs.
constexpr index_t kEnoughBlocks = 1024;

// Tiles with the same number of channels, one run per lane, as few as the lanes allow.
struct ChannelTiles {
  index_t count;
  unsigned lanes;

  explicit ChannelTiles(index_t channels) {
    const index_t runs = ceil_divide(channels, kGeluPoolRun);
    lanes = 1;
    if (runs > 0)
      lanes = static_cast<unsigned>(ceil_divide(runs, ceil_divide(runs, kGeluPoolLanes)));
    count = ceil_divide(runs, lanes);
  }
};

}  // namespace

LaunchPlan gelu_pool_plan(index_t batch, index_t channels, Grid grid, Grid pool_grid) {
  // Where there are few bins, a power of two of threads splits a bin's cells, with several cells
  // each. A block's other rows have bins of their own.
  const index_t cells =
      ceil_divide(grid.height, pool_grid.height) * ceil_divide(grid.width, pool_grid.width);
  const ChannelTiles tiles(channels);
  const index_t all_bins = batch * pool_grid.size() * tiles.count;
  unsigned sharing = 1;
  while (sharing < kGeluPoolRows && 2 * sharing * kGeluPoolAtOnce <= cells &&
         all_bins * sharing < kEnoughBlocks * kGeluPoolRows)
    sharing *= 2;
  const unsigned bins = kGeluPoolRows / sharing;
  return {{blocks_for(ceil_divide(batch * pool_grid.size(), bins) * tiles.count), 1, 1},
          {tiles.lanes, sharing, bins},
          0};
}

LaunchPlan gelu_pool_backward_plan(index_t batch, index_t channels, Grid grid) {
  const ChannelTiles tiles(channels);
  return {{blocks_for(batch * grid.height * gelu_pool_row_parts(grid.width) * tiles.count), 1, 1},
          {tiles.lanes, kGeluPoolRows, 1},
          0};
}

Launches launches(const GeluPoolParams& p, int) {
  Launches result;
  result.source = "cuda/kernels/pool/gelu_pool.cuh";
  result.add(kernel_name("gelu_pool_forward", p.x.dtype),
             gelu_pool_plan(p.x.shape[0], p.x.shape[2], p.grid, p.pool_grid), p);
  return result;
}

Launches launches(const GeluPoolBackwardParams& p, int) {
  Launches result;
  result.source = "cuda/kernels/pool/gelu_pool.cuh";
  result.add(kernel_name("gelu_pool_backward", p.x.dtype),
             gelu_pool_backward_plan(p.x.shape[0], p.x.shape[2], p.grid), p);
  return result;
}

}  // namespace transnext
