#include "emulation/fiber.h"

#include <cstdint>

namespace transnext::emulation {

#if defined(TRANSNEXT_EMULATION_UCONTEXT)

void prepare(Fiber& fiber, void* stack, std::size_t bytes, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fiber(Fiber& from, Fiber& to) {
  swapcontext(&from.context, &to.context);
}

#else

// System V calling convention: the callee preserves rbx, rbp and r12 to r15.
asm(R"(
.text
.p2align 4
.type transnext_switch_stack, @function
transnext_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size transnext_switch_stack, .-transnext_switch_stack
)");

extern "C" void transnext_switch_stack(void** save, void* load);

void prepare(Fiber& fiber, void* stack, std::size_t bytes, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  const auto top = (reinterpret_cast<std::uintptr_t>(stack) + bytes) & ~std::uintptr_t{15};
  // As after a call: once `ret` has popped entry, the stack pointer is 8 below a multiple of 16.
  void** pointer = reinterpret_cast<void**>(top);
  *--pointer = nullptr;
  *--pointer = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--pointer = nullptr;
  fiber.stack_pointer = pointer;
}

void switch_fiber(Fiber& from, Fiber& to) {
  transnext_switch_stack(&from.stack_pointer, to.stack_pointer);
}

#endif

}  // namespace transnext::emulation
