#include "transnext/deformable_attention.h"

#include "cuda/kernels/deformable/deformable_attention_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/tiles.h"

namespace transnext {
namespace {

constexpr const char* kSource = "cuda/kernels/deformable/deformable_attention.cuh";
constexpr index_t kEnoughBlocks = 4096;  // of the kernels over elements: several waves of any GPU

// Channels that a warp takes at once: all of them up to 64.
index_t channel_tiles(index_t channels) {
  return ceil_divide(channels, index_t{32} * kDeformableRun);
}

template <int kRank>
index_t elements_of(const View<kRank>& view) {
  index_t count = 1;
  for (const index_t size : view.shape) count *= size;
  return count;
}

LaunchPlan over_elements(index_t elements) {
  const index_t blocks = ceil_divide(elements, kDeformableThreads);
  return {{blocks_for(std::min(blocks, kEnoughBlocks)), 1, 1}, {kDeformableThreads, 1, 1}, 0};
}

// The kernels count samples in int.
void check_samples(const char* op, const DeformableInputs& in) {
  constexpr index_t kMost = 0x7fffffff / 4;
  if (in.logits.shape[3] > kMost)
    throw std::invalid_argument(std::string(op) + ": the CUDA kernels take up to " +
                                std::to_string(kMost) + " samples, got " +
                                std::to_string(in.logits.shape[3]));
}

int bits_of(index_t count) {
  int bits = 0;
  for (; count > 0; count /= 2) ++bits;
  return bits;
}

}  // namespace

Launches launches(const DeformableAttentionParams& p, int) {
  check_samples("deformable_attention", p.in);
  const index_t tiles =
      elements_of(p.in.logits) / p.in.logits.shape[3] * channel_tiles(p.in.value.shape[3]);
  Launches result;
  result.source = kSource;
  result.add(
      kernel_name("deformable_attention_forward", p.in.value.dtype),
      {{blocks_for(ceil_divide(tiles, kDeformableWarps)), 1, 1}, {32, kDeformableWarps, 1}, 0}, p);
  return result;
}

Launches launches(const DeformableAttentionBackwardParams& p, int) {
  check_samples("deformable_attention_backward", p.in);
  const DType dtype = p.in.value.dtype;
  const bool ordered = p.deterministic && p.d_value.present();
  const char* order = ordered ? "true" : "false";
  const index_t queries = p.in.logits.shape[1];
  DeformableBackwardLaunch launch{};
  launch.call = p;
  launch.elements = elements_of(p.in.value);
  launch.bits_of_queries = bits_of(queries);
  Launches result;
  result.source = kSource;

  // d_value holds its own sums if they are floats in any order; others are in the workspace.
  const bool own = dtype == DType::kFloat32 && !ordered;
  index_t stride = 1;
  for (int axis = 3; axis >= 0; --axis) {
    launch.stride[axis] = own ? p.d_value.stride[axis] : stride;
    stride *= p.in.value.shape[axis];
  }
  const auto add = [&](std::string kernel, const LaunchPlan& plan) {
    if (own || !p.d_value.present())
      result.add(std::move(kernel), plan, launch);
    else
      result.add_with_workspace(std::move(kernel), plan, launch);
  };
  if (!own && p.d_value.present())
    result.workspace = ordered ? 2 * launch.elements + 1 : launch.elements;

  const LaunchPlan over_values = over_elements(launch.elements);
  if (p.d_value.present()) add(kernel_name("deformable_attention_clear", order, {}), over_values);
  if (ordered)
    add(kernel_name("deformable_attention_largest", dtype), over_elements(elements_of(p.d_out)));
  const auto warps =
      static_cast<unsigned>(std::min<index_t>(p.in.value.shape[2], kDeformableWarps));
  add(kernel_name("deformable_attention_backward", dtype, order),
      {{blocks_for(p.in.value.shape[0] * queries), 1, 1}, {32, warps, 1}, 0});
  if (!own && p.d_value.present())
    add(kernel_name("deformable_attention_store", dtype, order), over_values);
  return result;
}

}  // namespace transnext
