// The thread's number in its block, for blocks of one dimension.
#pragma once

namespace transnext::device {

// Read anew at each call: threadIdx.x, and whatever follows from it, a compiler computes once and then
// keeps, in registers that a kernel may not have.
__device__ inline int thread_index() {
#if defined(__CUDA_ARCH__)
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  __builtin_assume(index >= 0 && index < 1024);
  return index;
#else
  return static_cast<int>(threadIdx.x);
#endif
}

}  // namespace transnext::device
