// Runs an operator's launches with the kernels compiled into the library.
#pragma once

#include "cuda/plans/launches.h"

namespace transnext::cuda {

// Enqueues the kernels on `stream`, a cudaStream_t of device number `device`, and does not wait for
// them. Throws std::runtime_error, which names the operator, the kernel and what is needed, if the
// library lacks a kernel or CUDA reports an error, perhaps that of an earlier launch.
void run(const char* op, const Launches& launches, int device, void* stream);

}  // namespace transnext::cuda
