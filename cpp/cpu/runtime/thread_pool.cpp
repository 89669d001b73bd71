#include "cpu/runtime/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <pthread.h>
#include <system_error>
#include <thread>

#include "cpu/runtime/openmp_runtime.h"
#include "cpu/runtime/task_ranges.h"

namespace transnext::cpu {
namespace {

// How long a thread spins for work, or for its end, before it sleeps: a few microseconds, about the
// cost of waking it. Longer spinning would steal time from the caller's other threads.
constexpr int kSpins = 256;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True while the current thread runs tasks: nested calls then run inline.
thread_local bool inside_task = false;

// One parallel_for. It lives on the caller's stack: `attached` counts the workers that may still
// access it.
struct Job {
  void (*function)(void*, index_t);
  void* context;
  TaskRanges tasks;
  int open_slots;  // workers that may still join, guarded by the pool's mutex
  std::atomic<int> attached{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error{};  // written once, by the thread that set `failed`

  Job(index_t count, index_t threads, void (*task)(void*, index_t), void* task_context)
      : function(task),
        context(task_context),
        tasks(count, threads),
        open_slots(static_cast<int>(threads) - 1) {}

  // Does tasks as the thread `number` of those that do, of which the caller is 0.
  void work(int number) {
    inside_task = true;
    tasks.take(number, [this](index_t task) {
      try {
        function(context, task);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
      return !failed.load(std::memory_order_relaxed);
    });
    inside_task = false;
  }
};

class ThreadPool {
 public:
  void run(index_t count, int max_threads, void (*function)(void*, index_t), void* context) {
    std::unique_lock<std::mutex> only_caller(caller_mutex_, std::defer_lock);
    const index_t wanted = count < max_threads ? count : max_threads;
    if (wanted <= 1 || inside_task || !only_caller.try_lock()) {
      for (index_t i = 0; i < count; ++i) function(context, i);
      return;
    }
    Job job(count, wanted, function, context);
    if (const OpenMp* openmp = find_openmp()) {
      // Always the same number of threads, even for fewer tasks, so that the runtime keeps its
      // team.
      struct Shared {
        Job& job;
        const OpenMp& openmp;
      } shared{job, *openmp};
      openmp->parallel(
          [](void* data) {
            const Shared& shared = *static_cast<Shared*>(data);
            shared.job.work(shared.openmp.thread_number());
          },
          &shared, static_cast<unsigned>(max_threads), 0);
      if (job.error) std::rethrow_exception(job.error);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < job.open_slots && add_worker()) ++workers_;
      job_ = &job;
      posted_.fetch_add(1);
    }
    wake_.notify_all();
    job.work(0);
    {
      // No worker joins from here on; wait for those that did.
      std::unique_lock<std::mutex> lock(mutex_);
      job_ = nullptr;
      for (int spin = 0; spin < kSpins && job.attached.load() > 0; ++spin) {
        lock.unlock();
        relax();
        lock.lock();
      }
      done_.wait(lock, [&] { return job.attached.load() == 0; });
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
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
      while (job_ == nullptr || job_->open_slots == 0) {
        const unsigned seen = posted_.load();
        lock.unlock();
        for (int spin = 0; spin < kSpins && posted_.load(std::memory_order_relaxed) == seen; ++spin)
          relax();
        lock.lock();
        wake_.wait(lock, [&] { return posted_.load() != seen || (job_ && job_->open_slots > 0); });
      }
      Job* job = job_;
      --job->open_slots;
      job->attached.fetch_add(1);
      lock.unlock();
      job->work(number);
      lock.lock();
      if (job->attached.fetch_sub(1) == 1) done_.notify_one();
    }
  }

  std::mutex caller_mutex_;  // one parallel_for at a time
  std::mutex mutex_;         // guards job_, workers_ and the condition variables
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<unsigned> posted_{0};
  Job* job_ = nullptr;
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

}  // namespace detail
}  // namespace transnext::cpu
