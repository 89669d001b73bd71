// What the fused attention's kernels take beside the operator's Params.
#pragma once

#include "device/attention_shape.h"
#include "transnext/aggregated_attention.h"

namespace transnext {

struct AttentionForwardLaunch {
  AggregatedAttentionParams p;
  BiasRing bias_ring;
};

}  // namespace transnext
