// The kernels of deformable_attention.
#pragma once

#include "cuda/kernels/deformable/deformable_attention_backward.cuh"
#include "cuda/kernels/deformable/deformable_attention_forward.cuh"
