// aggregated_attention backward, in launch order: gradients of the tokens and delta, gradients of
// the pooled keys, gradient of the bias, and the second stage of every sum.
#pragma once

#include "cuda/kernels/attention/backward/bias.cuh"
#include "cuda/kernels/attention/backward/pooled.cuh"
#include "cuda/kernels/attention/backward/strips.cuh"
#include "cuda/kernels/attention/backward/sums.cuh"
#include "cuda/kernels/attention/backward/tiles.cuh"
