// Parallel loops one after the other on threads that stay together.
//
// Starting a loop on sleeping threads takes 15 microseconds and more, a wake-up each, and a model has
// several for each block, with nearly nothing between them. In a team threads wait for the next one
// awake, for as long as such gaps take; then they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "cpu/runtime/job.h"

namespace transnext::cpu {

class Team {
 public:
  // As thread 0: does a job with those of the others that come, and returns when it is done.
  void run(Job& job) {
    job_.store(&job);
    posted_.fetch_add(1);
    wake(workers_sleep_, next_);
    job.work(0);
    job_.store(nullptr);  // nobody begins with it from here on
    wait(leader_sleeps_, done_, [this] { return attached_.load() == 0; });
  }

  // As thread 0: lets the others go.
  void dismiss() {
    over_.store(true);
    posted_.fetch_add(1);
    wake(workers_sleep_, next_);
  }

  // As thread `number`, from 1: does jobs until it may go.
  void serve(int number) {
    unsigned seen = 0;
    for (;;) {
      wait(workers_sleep_, next_, [&] { return posted_.load() != seen; });
      seen = posted_.load();
      if (over_.load()) return;
      // The leader takes its job away before it looks for those attached, so one of the two sees the
      // other.
      attached_.fetch_add(1);
      if (Job* job = job_.load()) job->work(number);
      if (attached_.fetch_sub(1) == 1) wake(leader_sleeps_, done_);
    }
  }

 private:
  static constexpr int kSpins = 2048;  // 50 to 100 microseconds

  // Waits until `reached()`, which another thread makes true before it calls `wake`.
  template <class Reached>
  void wait(std::atomic<int>& sleepers, std::condition_variable& condition, Reached&& reached) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (reached()) return;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers.fetch_add(1);
    condition.wait(lock, reached);
    sleepers.fetch_sub(1);
  }

  void wake(const std::atomic<int>& sleepers, std::condition_variable& condition) {
    if (sleepers.load() == 0) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }  // not between a look and the sleep
    condition.notify_all();
  }

  // A cache line for what the leader writes and one for what workers do.
  alignas(64) std::atomic<unsigned> posted_{0};
  std::atomic<Job*> job_{nullptr};
  std::atomic<bool> over_{false};
  alignas(64) std::atomic<int> attached_{0};  // workers that may read `job_`
  alignas(64) std::mutex mutex_;              // of those that sleep
  std::condition_variable next_;
  std::condition_variable done_;
  std::atomic<int> workers_sleep_{0};
  std::atomic<int> leader_sleeps_{0};
};

}  // namespace transnext::cpu
