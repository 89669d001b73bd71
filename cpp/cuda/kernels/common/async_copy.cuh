// Asynchronous copies from global to shared memory (cp.async from compute capability 8.0 on; plain
// loads and stores below).
//
//   copy_async_16(shared, global, valid);  // any number of copies, of 16, 8 or 4 bytes
//   commit_copies();                       // closes a group
//   wait_copies<n>();                      // this thread's copies but for the last n groups are in
//   __syncthreads();                       // now everybody's are
//
// Both addresses are multiples of the size. Where `valid` is false zeros are stored and `global` is
// not read. Nothing may read or write the target between the copy and the wait.
#pragma once

#include "cuda/kernels/common/shared_memory.cuh"

#if defined(TRANSNEXT_EMULATION)
#include "emulation/async_copy.h"
#endif

namespace transnext::device {

#if defined(TRANSNEXT_EMULATION)

inline void copy_async_16(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, 16, valid);
}
inline void copy_async_8(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, 8, valid);
}
inline void copy_async_4(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, 4, valid);
}
inline void commit_copies() {
  emulation::commit_copies();
}
template <int kGroups>
inline void wait_copies() {
  emulation::wait_copies(kGroups);
}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

// 16 bytes bypass the first-level cache: a block reads them only once.
__device__ inline void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async_8(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 8 : 0)
               : "memory");
}
__device__ inline void copy_async_4(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kGroups>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#else

__device__ inline void copy_async_16(void* shared, const void* global, bool valid) {
  *static_cast<uint4*>(shared) =
      valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
}
__device__ inline void copy_async_8(void* shared, const void* global, bool valid) {
  *static_cast<uint2*>(shared) = valid ? *static_cast<const uint2*>(global) : make_uint2(0, 0);
}
__device__ inline void copy_async_4(void* shared, const void* global, bool valid) {
  *static_cast<unsigned*>(shared) = valid ? *static_cast<const unsigned*>(global) : 0;
}
__device__ inline void commit_copies() {}
template <int kGroups>
__device__ inline void wait_copies() {}

#endif

}  // namespace transnext::device
