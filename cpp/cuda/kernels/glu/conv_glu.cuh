// conv_glu on the GPU, T in float, Half, BFloat16; float arithmetic.
#pragma once

#include "cuda/kernels/glu/conv_glu_backward.cuh"
#include "cuda/kernels/glu/conv_glu_forward.cuh"
