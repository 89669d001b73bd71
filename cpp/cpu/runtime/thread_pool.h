// Parallel loops on the threads of PyTorch's own OpenMP runtime (openmp_runtime.h), or on a small
// persistent pool where there is none. The number of threads is an argument of every call, so the
// caller's setting (torch.get_num_threads) is followed; the pool keeps as many workers as were ever
// requested.
#pragma once

#include <type_traits>

#include "transnext/tensor.h"

namespace transnext::cpu {

namespace detail {
void run_tasks(index_t count, int max_threads, void (*function)(void*, index_t), void* context);
void run_together(int max_threads, void (*function)(void*), void* context);
}  // namespace detail

// Calls task(0) .. task(count - 1), each exactly once, in any order, on at most max_threads threads
// including this one, and returns when all are done. The first exception is rethrown here, and the
// remaining tasks are skipped. A call from inside a task, or while another thread uses the pool,
// runs its tasks on the calling thread.
template <class Task>
void parallel_for(index_t count, int max_threads, Task&& task) {
  using Callable = std::remove_reference_t<Task>;
  detail::run_tasks(
      count, max_threads,
      [](void* context, index_t index) { (*static_cast<Callable*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&task)));
}

// Calls loops(), on this thread, whose parallel loops then find their other threads awake (team.h).
// They must ask for no more threads than this call. What it throws is rethrown.
template <class Loops>
void loops_together(int max_threads, Loops&& loops) {
  using Callable = std::remove_reference_t<Loops>;
  detail::run_together(
      max_threads, [](void* context) { (*static_cast<Callable*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&loops)));
}

}  // namespace transnext::cpu
