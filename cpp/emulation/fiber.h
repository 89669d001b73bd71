// A fiber: a function on its own stack that runs until it switches to another one. The switch saves
// only the registers that a call preserves, so it costs a few nanoseconds. Processors without such
// a switch use ucontext, which calls the kernel for the signal mask; so does x86-64 with
// -DTRANSNEXT_EMULATION_UCONTEXT, which tests it.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(TRANSNEXT_EMULATION_UCONTEXT)
#define TRANSNEXT_EMULATION_UCONTEXT
#endif

#if defined(TRANSNEXT_EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace transnext::emulation {

#if defined(TRANSNEXT_EMULATION_UCONTEXT)
struct Fiber {
  ucontext_t context;
};
#else
struct Fiber {
  void* stack_pointer = nullptr;
};
#endif

// Makes the fiber start with entry() on this stack, which must never return.
void prepare(Fiber& fiber, void* stack, std::size_t bytes, void (*entry)());

// Continues `to` until something switches back to `from`.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace transnext::emulation
