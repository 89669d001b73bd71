// Tiles of the position_bias_table kernels, shared by the kernels and their launch plan.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kBiasTableHeads = 4;  // heads of a block

// Forward: positions of a lane, groups of threads that split the hidden features, features in
// shared memory.
constexpr int kBiasTableLanes = 32;
constexpr int kBiasTablePositions = 4;
constexpr int kBiasTableGroups = 8;
constexpr int kBiasTableHidden = 512;

// Backward: hidden features of a block (one per thread), positions in shared memory, and the fewest
// positions worth a row of partial sums; there are at most kBiasTableSlices rows.
constexpr int kBiasTableFeatures = 128;
constexpr int kBiasTableTile = 64;
constexpr index_t kBiasTableSlices = 256;

TRANSNEXT_INLINE index_t position_bias_table_slices(index_t positions) {
  const index_t slices = (positions + kBiasTableTile - 1) / kBiasTableTile;
  return slices < kBiasTableSlices ? slices : kBiasTableSlices;
}

// Backward's workspace: partial sums of d_fc2_weight, then of (d_fc1_weight's two columns,
// d_fc1_bias), then of d_fc2_bias.
struct PositionBiasTablePartials {
  index_t heads;
  index_t hidden;
  index_t slices;

  TRANSNEXT_INLINE index_t chunks() const {
    return (heads + kBiasTableHeads - 1) / kBiasTableHeads;
  }
  TRANSNEXT_INLINE index_t fc1_rows() const { return slices * chunks(); }
  TRANSNEXT_INLINE index_t fc1() const { return slices * heads * hidden; }
  TRANSNEXT_INLINE index_t fc2_bias() const { return fc1() + fc1_rows() * 3 * hidden; }
  TRANSNEXT_INLINE index_t size() const { return fc2_bias() + slices * heads; }
};

}  // namespace transnext
