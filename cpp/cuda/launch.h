// What every CUDA launch does around the kernel: the tensors' device, and errors as C++ exceptions.
#pragma once

#include <cuda_runtime.h>
#include <stdexcept>
#include <string>

#include "transnext/launch_plan.h"

namespace transnext::cuda {

inline void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA error " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status));
}

// Makes `device` current for the time of a launch.
class DeviceGuard {
 public:
  DeviceGuard(int device, const char* op) {
    check(cudaGetDevice(&previous_), op);
    if (previous_ == device) return;
    check(cudaSetDevice(device), op);
    changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Enqueues kernel(params) on the stream as the plan says.
template <class Params>
void launch(const char* op, void (*kernel)(Params), const LaunchPlan& plan, const Params& params,
            int device, void* stream) {
  if (plan.empty()) return;
  const DeviceGuard guard(device, op);
  const dim3 grid(plan.grid[0], plan.grid[1], plan.grid[2]);
  const dim3 block(plan.block[0], plan.block[1], plan.block[2]);
  kernel<<<grid, block, plan.shared_bytes, static_cast<cudaStream_t>(stream)>>>(params);
  check(cudaGetLastError(), op);
}

[[noreturn]] inline void unsupported_dtype(const char* op) {
  throw std::invalid_argument(std::string(op) +
                              ": the CUDA kernel takes float32, float16 and bfloat16");
}

}  // namespace transnext::cuda
