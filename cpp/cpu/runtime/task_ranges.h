// The tasks of a parallel loop, a range for each of its threads.
//
// A thread begins with its own range, which is the same part of the tasks in every loop, and then
// helps the others with theirs. Loops of a model run over the same tokens one after the other: so
// most of what a core reads is in its own second-level cache, where it wrote it in the loop before,
// and does not come from another core's.
#pragma once

#include <atomic>

#include "cpu/runtime/ranges.h"

namespace transnext::cpu {

// Whether a range begins with `task`: its thread has done none before.
constexpr bool begins_range(index_t task, index_t tasks, index_t ranges) {
  const index_t number = (task * ranges + tasks - 1) / tasks;
  return number < ranges && range_begin(number, tasks, ranges) == task;
}

class TaskRanges {
 public:
  TaskRanges(index_t tasks, index_t threads) : count_(threads < kMost ? threads : kMost) {
    for (index_t i = 0; i < count_; ++i) {
      ranges_[i].next.store(range_begin(i, tasks, count_), std::memory_order_relaxed);
      ranges_[i].end = range_begin(i + 1, tasks, count_);
    }
  }

  // Calls run(task) for tasks that no thread has taken, first of the range of thread `number`, until
  // there is none left or run returns false.
  template <class Run>
  void take(int number, Run&& run) {
    for (index_t i = 0; i < count_; ++i) {
      Range& range = ranges_[(number + i) % count_];
      for (index_t task = range.next.fetch_add(1); task < range.end; task = range.next.fetch_add(1))
        if (!run(task)) return;
    }
  }

 private:
  static constexpr index_t kMost = 64;  // more threads than that share ranges
  struct alignas(64) Range {            // a cache line
    std::atomic<index_t> next;
    index_t end;
  };

  index_t count_;
  Range ranges_[kMost];
};

}  // namespace transnext::cpu
