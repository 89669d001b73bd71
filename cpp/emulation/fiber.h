// A fiber: a function on its own stack that runs until it switches to another one. The switch saves
// only the registers that a call preserves, so it costs a few nanoseconds; ucontext, which goes
// through the kernel for the signal mask, serves processors without one written here.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace transnext::emulation {

#if defined(__x86_64__)
struct Fiber {
  void* stack_pointer = nullptr;
};
#else
struct Fiber {
  ucontext_t context;
};
#endif

// Makes the fiber start with entry() on this stack, which must never return.
void prepare(Fiber& fiber, void* stack, std::size_t bytes, void (*entry)());

// Goes on with `to`, until something switches back to `from`.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace transnext::emulation
