// Dynamic shared memory of the running block, whose size is in the launch plan. It starts at a
// multiple of 128 bytes on a GPU, at least of 16 in the emulation, and is not initialised.
#pragma once

#if defined(TRANSNEXT_EMULATION)
#include "emulation/shared_memory.h"
#endif

namespace transnext::device {

template <class T>
__device__ inline T* dynamic_shared() {
#if defined(TRANSNEXT_EMULATION)
  return static_cast<T*>(emulation::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char transnext_dynamic_shared[];
  return reinterpret_cast<T*>(transnext_dynamic_shared);
#endif
}

#if !defined(TRANSNEXT_EMULATION)
// The address of a pointer into shared memory in that memory's own address space, as PTX needs it.
__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

}  // namespace transnext::device
