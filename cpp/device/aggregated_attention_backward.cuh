// aggregated_attention backward, in the order of the launches: the tokens' gradients and delta, the
// pooled keys', the bias's, and the second stages of the sums.
#pragma once

#include "device/aggregated_attention_backward_bias.cuh"
#include "device/aggregated_attention_backward_pooled.cuh"
#include "device/aggregated_attention_backward_sums.cuh"
#include "device/aggregated_attention_backward_tokens.cuh"
