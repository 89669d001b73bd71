// The OpenMP runtime that PyTorch runs its own CPU kernels with, if it is in this process.
//
// Its threads are idle while our kernels run, and spin for a while before they sleep: a second pool
// would compete with them for the same cores. So that runtime runs the tasks. It is found at run
// time through the C interface that compilers call; nothing is linked, and without it the library's
// own pool is used.
#pragma once

namespace transnext::cpu {

// GOMP_parallel of libgomp, also exported by LLVM's and Intel's runtimes: calls function(data) on
// `threads` threads, including this one, and waits for all.
using OpenMpParallel = void (*)(void (*function)(void*), void* data, unsigned threads,
                                unsigned flags);

// nullptr if there is no such runtime, or in a forked process whose parent may have used it: its
// threads no longer exist, but the runtime waits for them.
OpenMpParallel openmp_parallel();

}  // namespace transnext::cpu
