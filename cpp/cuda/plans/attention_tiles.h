// Choices that the launch plans of the attention kernels share.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/plans/tiles.h"
#include "device/attention_shape.h"
#include "transnext/tensor.h"

namespace transnext {

// The kernels' head dim that takes `channels`, the rest being zeros.
inline int padded_channels(index_t channels) {
  for (const int padded : {24, 32, 64, 128}) {
    if (channels <= padded) return padded;
  }
  throw std::invalid_argument(
      "aggregated_attention: the CUDA kernels take head dims up to 128, got " +
      std::to_string(channels));
}

// Dynamic shared memory that a block may have, less what the driver keeps.
inline int most_shared_bytes(int architecture) {
  switch (architecture) {
    case 75:
      return 64 * 1024;
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 * 1024;
    default:
      return architecture < 75 ? 48 * 1024 : architecture < 90 ? 99 * 1024 : 227 * 1024;
  }
}

// The part of an extrapolated table that a tile reads for a chunk of pooled keys: neighbouring
// queries are one entry apart, neighbouring pooled cells as many as their ratio.
inline BiasRing bias_ring(Grid grid, Grid pool_grid, const TileSize& tile) {
  const index_t keys = std::min<index_t>(tile.chunk_keys, pool_grid.size());
  const index_t pool_rows = std::min(pool_grid.height, ceil_divide(keys - 1, pool_grid.width) + 1);
  const index_t width =
      tile.columns + (pool_grid.width - 1) * ceil_divide(grid.width, pool_grid.width);
  BiasRing ring;
  ring.rows =
      static_cast<int>(tile.rows + (pool_rows - 1) * ceil_divide(grid.height, pool_grid.height));
  // Rows of a warp's queries lie 8 banks apart then.
  ring.width = static_cast<int>(ceil_divide(width - 8, 16) * 16 + 8);
  return ring;
}

}  // namespace transnext
