// The list of CPU kernels, from which their declarations per level, the table of function pointers and the
// public entry points (dispatch.cpp) are made.
#pragma once

#include "transnext/aggregated_attention.h"
#include "transnext/conv_glu.h"
#include "transnext/gelu_pool.h"
#include "transnext/position_bias_table.h"
#include "transnext/window.h"

// X(function, Params) for each kernel `void function(const Params& params, int threads)`.
#define TRANSNEXT_FOR_EACH_CPU_KERNEL(X)                                        \
  X(gelu_pool, GeluPoolParams)                                                  \
  X(gelu_pool_backward, GeluPoolBackwardParams)
