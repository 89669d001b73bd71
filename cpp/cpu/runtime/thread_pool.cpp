#include "cpu/runtime/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <pthread.h>
#include <system_error>
#include <thread>

#include "cpu/runtime/job.h"
#include "cpu/runtime/openmp_runtime.h"
#include "cpu/runtime/team.h"

namespace transnext::cpu {
namespace {

// How long a thread spins for work, or for its end, before it sleeps: a few microseconds, about the
// cost of waking it. Longer spinning would steal time from the caller's other threads.
constexpr int kSpins = 256;

// The team that this thread leads, or nullptr.
thread_local Team* own_team = nullptr;

class ThreadPool {
 public:
  void run(index_t count, int max_threads, void (*function)(void*, index_t), void* context) {
    std::unique_lock<std::mutex> only_caller(caller_mutex_, std::defer_lock);
    const index_t wanted = count < max_threads ? count : max_threads;
    const bool alone = wanted <= 1 || Job::inside_task();
    if (alone || (own_team == nullptr && !only_caller.try_lock())) {
      for (index_t i = 0; i < count; ++i) function(context, i);
      return;
    }
    Job job(count, wanted, function, context);
    if (own_team != nullptr) {
      own_team->run(job);
    } else if (const OpenMp* openmp = find_openmp()) {
      // Always the same number of threads, even for fewer tasks, so that the runtime keeps its
      // team.
      run_on(*openmp, max_threads, [&job](int number) { job.work(number); });
    } else {
      run_on_workers(job, static_cast<int>(wanted) - 1);
    }
    job.rethrow();
  }

  void run_together(int max_threads, void (*function)(void*), void* context) {
    std::unique_lock<std::mutex> only_caller(caller_mutex_, std::defer_lock);
    const bool alone = max_threads <= 1 || Job::inside_task() || own_team != nullptr;
    const OpenMp* openmp = alone ? nullptr : find_openmp();
    if (openmp == nullptr || !only_caller.try_lock()) return function(context);
    Team team;
    std::exception_ptr error;
    run_on(*openmp, max_threads, [&](int number) {
      if (number > 0) return team.serve(number);
      own_team = &team;
      try {
        function(context);
      } catch (...) {
        error = std::current_exception();
      }
      own_team = nullptr;
      team.dismiss();
    });
    if (error) std::rethrow_exception(error);
  }

 private:
  // Calls work(number) on `threads` threads of an OpenMP runtime, numbered from 0, the caller.
  template <class Work>
  static void run_on(const OpenMp& openmp, int threads, Work&& work) {
    struct Shared {
      Work& work;
      const OpenMp& openmp;
    } shared{work, openmp};
    openmp.parallel(
        [](void* data) {
          const Shared& shared = *static_cast<Shared*>(data);
          shared.work(shared.openmp.thread_number());
        },
        &shared, static_cast<unsigned>(threads), 0);
  }

  // Does a job with `others` workers of this pool.
  void run_on_workers(Job& job, int others) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < others && add_worker()) ++workers_;
      job_ = &job;
      open_slots_ = others;
      posted_.fetch_add(1);
    }
    wake_.notify_all();
    job.work(0);
    {
      // No worker joins from here on; wait for those that did.
      std::unique_lock<std::mutex> lock(mutex_);
      job_ = nullptr;
      for (int spin = 0; spin < kSpins && attached_ > 0; ++spin) {
        lock.unlock();
        relax();
        lock.lock();
      }
      done_.wait(lock, [&] { return attached_ == 0; });
    }
  }

  // False if the system creates no more threads: the existing ones do the work.
  bool add_worker() {
    try {
      std::thread([this, number = workers_ + 1] { serve(number); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  void serve(int number) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      while (job_ == nullptr || open_slots_ == 0) {
        const unsigned seen = posted_.load();
        lock.unlock();
        for (int spin = 0; spin < kSpins && posted_.load(std::memory_order_relaxed) == seen; ++spin)
          relax();
        lock.lock();
        wake_.wait(lock, [&] { return posted_.load() != seen || (job_ && open_slots_ > 0); });
      }
      Job* job = job_;
      --open_slots_;
      ++attached_;
      lock.unlock();
      job->work(number);
      lock.lock();
      if (--attached_ == 0) done_.notify_one();
    }
  }

  std::mutex caller_mutex_;  // one parallel_for at a time
  std::mutex mutex_;         // guards what follows but for posted_
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<unsigned> posted_{0};
  Job* job_ = nullptr;
  int open_slots_ = 0;  // workers that may still begin with the job
  int attached_ = 0;    // workers that do
  int workers_ = 0;
};

// Never destroyed, since detached workers wait in it until the process ends. A forked child has
// none of the workers and perhaps locked mutexes, so it constructs a new pool in the same memory.
alignas(ThreadPool) unsigned char pool_storage[sizeof(ThreadPool)];

ThreadPool* new_pool() {
  return new (pool_storage) ThreadPool;
}

// Created, with its fork handlers, when the library is loaded: if the first loop created it, a
// process that forks at that moment would be unprotected.
ThreadPool* const pool = [] {
  pthread_atfork(nullptr, nullptr, [] { new_pool(); });
  return new_pool();
}();

}  // namespace

namespace detail {

void run_tasks(index_t count, int max_threads, void (*function)(void*, index_t), void* context) {
  pool->run(count, max_threads, function, context);
}

void run_together(int max_threads, void (*function)(void*), void* context) {
  pool->run_together(max_threads, function, context);
}

}  // namespace detail
}  // namespace transnext::cpu
