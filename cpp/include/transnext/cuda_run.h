// Running an operator's launches with the kernels compiled into the library.
#pragma once

#include "transnext/launches.h"

namespace transnext::cuda {

// Enqueues the kernels on `stream`, a cudaStream_t of device number `device`, and does not wait for
// them. Throws std::runtime_error, naming the operator, if CUDA reports an error.
void run(const char* op, const Launches& launches, int device, void* stream);

// The compute capability of a device, major * 10 + minor.
int architecture(int device);

}  // namespace transnext::cuda
