// The thread's index in a block of one dimension.
#pragma once

namespace transnext::device {

// Read again at each call: a compiler would compute threadIdx.x and everything derived from it
// once, and keep it in registers that a kernel may not have.
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
