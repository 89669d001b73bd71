// aggregated_attention backward, in the order of the launches: the tokens' gradients and delta, the
// pooled keys', the bias's, and the second stages of the sums.
#pragma once

#include "cuda/kernels/attention/backward/bias.cuh"
#include "cuda/kernels/attention/backward/pooled.cuh"
#include "cuda/kernels/attention/backward/sums.cuh"
#include "cuda/kernels/attention/backward/tokens.cuh"
