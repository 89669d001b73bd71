#include "transnext/conv_glu.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/kernels/glu/conv_glu_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/partial_sums.h"
#include "cuda/plans/tiles.h"

namespace transnext {
namespace {

// Rows of partial sums, one per worker: enough blocks for the largest GPUs even with few channels,
// few enough that writing and adding the rows costs little beside the tensors.
constexpr index_t kMostWorkers = 512;

// The kernels number strips in 32 bits.
index_t strips(index_t batch, Grid grid) {
  constexpr index_t kMost = index_t{1} << 31;
  const index_t count = batch * conv_glu_bands(grid.height) * conv_glu_strips_across(grid.width);
  if (count >= kMost)
    throw std::invalid_argument(
        "conv_glu: the CUDA kernels take fewer than " + std::to_string(kMost) + " strips of " +
        std::to_string(kConvGluRows) + "x" + std::to_string(kConvGluColumns) + " tokens, got " +
        std::to_string(count) + "; split the batch");
  return count;
}

// Warps of a block; each has strips of its own.
unsigned warps(index_t batch, Grid grid) {
  return static_cast<unsigned>(std::clamp<index_t>(strips(batch, grid), 1, kConvGluStrips));
}

index_t blocks_of_strips(index_t batch, Grid grid) {
  return ceil_divide(strips(batch, grid), warps(batch, grid));
}

index_t workers(index_t batch, Grid grid) {
  return std::min(blocks_of_strips(batch, grid), kMostWorkers);
}

// The kernels count the bytes from column to column in int.
void check_stride(const char* name, const View<3>& view) {
  constexpr index_t kMost = 0x7fffffff / 4;
  if (view.present() && (view.stride[1] > kMost || view.stride[1] < -kMost))
    throw std::invalid_argument(
        std::string("conv_glu: ") + name + " has a stride of " + std::to_string(view.stride[1]) +
        " elements from token to token; the CUDA kernels take up to " + std::to_string(kMost));
}

}  // namespace

LaunchPlan conv_glu_plan(index_t batch, index_t hidden, Grid grid) {
  const index_t groups = ceil_divide(hidden, kConvGluLanes * kConvGluRun);
  return {{blocks_for(blocks_of_strips(batch, grid) * groups), 1, 1},
          {kConvGluLanes, warps(batch, grid), 1},
          0};
}

LaunchPlan conv_glu_backward_plan(index_t batch, index_t hidden, Grid grid) {
  const index_t groups = ceil_divide(hidden, kConvGluLanes);
  // Both few enough for a grid's axes.
  return {
      {one_block_each("conv_glu_backward", groups), static_cast<unsigned>(workers(batch, grid)), 1},
      {kConvGluLanes, warps(batch, grid), 1},
      0};
}

Launches launches(const ConvGluParams& p, int) {
  check_stride("x", p.x);
  check_stride("out", p.out);
  Launches result;
  result.source = "cuda/kernels/glu/conv_glu.cuh";
  result.add(kernel_name("conv_glu_forward", p.x.dtype),
             conv_glu_plan(p.out.shape[0], p.out.shape[2], p.grid), p);
  return result;
}

Launches launches(const ConvGluBackwardParams& p, int) {
  check_stride("d_out", p.d_out);
  check_stride("x", p.x);
  check_stride("d_x", p.d_x);
  const index_t batch = p.d_out.shape[0];
  const index_t hidden = p.d_out.shape[2];
  const index_t rows = workers(batch, p.grid);
  const index_t stride = conv_glu_terms(p.d_x_bias.present()) * hidden;
  Launches result;
  result.source = "cuda/kernels/glu/conv_glu.cuh";
  if (p.d_weight.present() || p.d_bias.present() || p.d_x_bias.present())
    result.workspace = rows * stride;
  result.add_with_workspace(kernel_name("conv_glu_backward", p.x.dtype),
                            conv_glu_backward_plan(batch, hidden, p.grid), p);
  const View<4>& d = p.d_weight;  // partial sums are [tap, channel], it is [channel, 1, tap]
  add_partial_sums(result, 0, rows, stride,
                   {d.data, d.dtype, {3, 3, hidden}, {d.stride[2], d.stride[3], d.stride[0]}});
  add_partial_sums(result, 9 * hidden, rows, stride, three_axes(p.d_bias));
  add_partial_sums(result, 10 * hidden, rows, stride, three_axes(p.d_x_bias));
  return result;
}

}  // namespace transnext
