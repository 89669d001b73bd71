// Thread blocks and arguments of the deformable_attention kernels, shared by the kernels and their
// launch plan.
#pragma once

#include "transnext/deformable_attention.h"

namespace transnext {

constexpr int kDeformableRun = 2;         // channels of a thread at a time
constexpr int kDeformableChunk = 32;      // samples that a warp's lanes place at a time
constexpr unsigned kDeformableWarps = 8;  // of a block, at most
constexpr unsigned kDeformableThreads = 32 * kDeformableWarps;
constexpr unsigned kDeformableBlocks = 3;  // of a multiprocessor, at least, forward: 80 registers
constexpr unsigned kDeformableBackwardBlocks = 2;  // and backward: 128

struct DeformableBackwardLaunch {
  DeformableAttentionBackwardParams call;
  // The sums that become d_value: floats or, in a fixed order of none, whole numbers of 64 bits with
  // the bits of the largest |d_out| behind them. Null where d_value is float and holds them itself.
  float* workspace;
  index_t stride[4];    // of the sums, [B, S, h, d]
  index_t elements;     // of the sums
  int bits_of_queries;  // fewer queries than 2 to this power
};

}  // namespace transnext
