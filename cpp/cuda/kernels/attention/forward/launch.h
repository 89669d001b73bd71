// What the fused attention's kernels take beside the operator's Params.
#pragma once

#include "cuda/kernels/attention/shape.h"
#include "transnext/aggregated_attention.h"

namespace transnext {

struct AttentionForwardLaunch {
  AggregatedAttentionParams p;
  bool bias_in_place;  // the pooled logits' bias may be read from its tensor: see PoolBias
};

}  // namespace transnext
