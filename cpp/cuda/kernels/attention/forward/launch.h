// The argument of the fused attention's kernels: the operator's Params and what the plan decided.
#pragma once

#include "cuda/kernels/attention/shape.h"
#include "transnext/aggregated_attention.h"

namespace transnext {

struct AttentionForwardLaunch {
  AggregatedAttentionParams p;
  bool bias_in_place;  // the pooled bias may be read from its tensor: see PoolBias
  bool vectors;        // rows of all [B, N, h, d] tensors are whole vectors of 16 aligned bytes
};

}  // namespace transnext
