// The OpenMP runtime that PyTorch runs its own CPU kernels with, if it is in this process.
//
// Its threads are idle while our kernels run, and spin for a while before they sleep: a second pool
// would compete with them for the same cores. So that runtime runs the tasks. It is found at run
// time through the C interface that compilers call; nothing is linked, and without it the library's
// own pool is used.
#pragma once

namespace transnext::cpu {

// Functions of libgomp that LLVM's and Intel's runtimes export too.
struct OpenMp {
  // GOMP_parallel: calls function(data) on `threads` threads, including this one, and waits for all.
  void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
  // omp_get_thread_num: which of them calls it, 0 for the one that called `parallel`.
  int (*thread_number)();
};

// nullptr if there is no such runtime, or in a forked process whose parent may have used it: its
// threads no longer exist, but the runtime waits for them.
const OpenMp* find_openmp();

}  // namespace transnext::cpu
