// Shared memory of the running block, filled with bytes of 0xff (NaN in every type) before each one.
//
// Dynamic: a region between two pages that cannot be accessed. Each launch puts it next to one of
// them, so an access outside it faults, at most 15 bytes late.
//
// Static: `__shared__` is `static thread_local` (emulation/cuda.h), so the arrays of all kernels
// lie in this library's thread-local block, which nothing else uses. An index beyond an array's
// bounds traps, since kernels are compiled with -fsanitize=bounds; a pointer that moves from one
// array to another is not detected.
#pragma once

namespace transnext::emulation {

// 227 KB, the limit of a block on compute capability 9.0.
constexpr unsigned kMostSharedBytes = 227 * 1024;

void* dynamic_shared();
void place_shared_memory(unsigned bytes, bool against_end);
void poison_shared_memory();
// Whether all the bytes lie in one kind of shared memory.
bool is_shared(const void* pointer, int bytes);
// The name of the memory if the address is in or around dynamic shared memory, else nullptr.
const char* describe_shared_fault(const void* address);

}  // namespace transnext::emulation
