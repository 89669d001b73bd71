// conv_glu on the GPU, T in float, Half, BFloat16; float arithmetic.
#pragma once

#include "device/conv_glu_backward.cuh"
#include "device/conv_glu_forward.cuh"
