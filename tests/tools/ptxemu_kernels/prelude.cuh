// What the kernels here share. Each file is compiled behind this one, by nvcc and by NVRTC.
#include <mma.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#include <cooperative_groups.h>

#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;
using namespace nvcuda;
// An entry with a name that is not mangled.
#define KERNEL extern "C" __global__ void
typedef unsigned u32;
typedef unsigned long long u64;
