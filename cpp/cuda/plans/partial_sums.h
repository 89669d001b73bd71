// The launch that adds a reduction's partial sums.
#pragma once

#include "cuda/kernels/common/partial_sums_params.h"
#include "cuda/kernels/common/partial_sums_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/tiles.h"

namespace transnext {

// Appends the launch that adds up the rows of partial sums that kernels left in the workspace,
// unless `out` is absent.
inline void add_partial_sums(Launches& launches, index_t offset, index_t rows, index_t stride,
                             const View<3>& out) {
  if (!out.present()) return;
  const index_t elements = out.shape[0] * out.shape[1] * out.shape[2];
  const LaunchPlan plan = {{blocks_for(ceil_divide(elements, kPartialSumsLanes)), 1, 1},
                           {kPartialSumsLanes, kPartialSumsRows, 1},
                           0};
  launches.add_with_workspace("sum_partials<float>", plan,
                              PartialSumsParams{nullptr, offset, rows, stride, out});
}

// A tensor of lower rank as a tensor of rank three.
inline View<3> three_axes(const View<1>& view) {
  return {view.data, view.dtype, {1, 1, view.shape[0]}, {0, 0, view.stride[0]}};
}
inline View<3> three_axes(const View<2>& view) {
  return {view.data,
          view.dtype,
          {1, view.shape[0], view.shape[1]},
          {0, view.stride[0], view.stride[1]}};
}

}  // namespace transnext
