#include "transnext/add_layer_norm.h"

#include "cuda/kernels/norm/add_layer_norm_shape.h"
#include "cuda/plans/launches.h"
#include "cuda/plans/partial_sums.h"
#include "cuda/plans/tiles.h"

namespace transnext {
namespace {

constexpr index_t kSharedBytes = 48 * 1024;  // that every GPU has for a block
// Rows of partial sums, one per block: enough for the largest GPUs, few enough that writing and
// adding them costs little beside the tensors.
constexpr index_t kMostBlocksOfSums = 512;

// A block whose warps have `rows` rows of shared memory each.
struct Warps {
  unsigned count;
  unsigned shared_bytes;

  Warps(const char* op, index_t channels, index_t rows, index_t tokens) {
    const index_t bytes = rows * add_layer_norm_row(channels) * static_cast<index_t>(sizeof(float));
    if (bytes > kSharedBytes)
      throw std::invalid_argument(
          std::string(op) + ": the CUDA kernels take up to " +
          std::to_string(kSharedBytes / (rows * static_cast<index_t>(sizeof(float)))) +
          " channels, got " + std::to_string(channels));
    count = static_cast<unsigned>(
        std::clamp<index_t>(std::min<index_t>(kSharedBytes / bytes, kAddLayerNormWarps), 1,
                            std::max<index_t>(tokens, 1)));
    shared_bytes = static_cast<unsigned>(count * bytes);
  }
};

index_t tokens_of(const View<3>& tokens) {
  return tokens.shape[0] * tokens.shape[1];
}

}  // namespace

Launches launches(const AddLayerNormParams& p, int) {
  const index_t tokens = tokens_of(p.total);
  const Warps warps("add_layer_norm", p.total.shape[2], 1, tokens);
  Launches result;
  result.source = "cuda/kernels/norm/add_layer_norm.cuh";
  result.add(kernel_name("add_layer_norm_forward", p.branch.dtype),
             {{blocks_for(ceil_divide(tokens, warps.count)), 1, 1},
              {kAddLayerNormLanes, warps.count, 1},
              warps.shared_bytes},
             p);
  return result;
}

Launches launches(const AddLayerNormBackwardParams& p, int) {
  const index_t tokens = tokens_of(p.total);
  const index_t channels = p.total.shape[2];
  const bool has_branch_sums = p.d_branch_bias.present();
  const bool has_sums = p.d_weight.present() || p.d_bias.present() || has_branch_sums;
  const int sums = add_layer_norm_sums(has_sums, has_branch_sums);
  const Warps warps("add_layer_norm_backward", channels, 2 + sums, tokens);
  const index_t blocks = std::min(ceil_divide(tokens, warps.count), kMostBlocksOfSums);
  const index_t stride = sums * channels;
  Launches result;
  result.source = "cuda/kernels/norm/add_layer_norm.cuh";
  result.workspace = blocks * stride;
  result.add_with_workspace(
      kernel_name("add_layer_norm_backward", p.d_normed.dtype),
      {{blocks_for(blocks), 1, 1}, {kAddLayerNormLanes, warps.count, 1}, warps.shared_bytes}, p);
  add_partial_sums(result, 0, blocks, stride, three_axes(p.d_weight));
  add_partial_sums(result, channels, blocks, stride, three_axes(p.d_bias));
  add_partial_sums(result, 2 * channels, blocks, stride, three_axes(p.d_branch_bias));
  return result;
}

}  // namespace transnext
