// One parallel loop: its tasks, and what the threads that do them share.
#pragma once

#include <atomic>
#include <exception>

#include "cpu/runtime/task_ranges.h"

namespace transnext::cpu {

// Lets the other thread of a core go on, in a loop that waits for memory to change.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// It lives on the stack of the thread that calls the loop, which waits for the others.
class Job {
 public:
  Job(index_t count, index_t threads, void (*function)(void*, index_t), void* context)
      : function_(function), context_(context), tasks_(count, threads) {}

  // Does tasks as the thread `number` of those that do, of which the caller is 0.
  void work(int number) {
    inside_task() = true;
    tasks_.take(number, [this](index_t task) {
      try {
        function_(context_, task);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      return !failed_.load(std::memory_order_relaxed);
    });
    inside_task() = false;
  }

  // Throws what a task threw first, once all threads are done.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

  // True while the current thread runs tasks: nested loops then run inline.
  static bool& inside_task() {
    static thread_local bool inside = false;
    return inside;
  }

 private:
  void (*function_)(void*, index_t);
  void* context_;
  TaskRanges tasks_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_{};  // written once, by the thread that set `failed_`
};

}  // namespace transnext::cpu
