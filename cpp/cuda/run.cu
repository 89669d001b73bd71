#include <cuda_runtime.h>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "cuda/kernel_table.h"
#include "transnext/cuda_run.h"

namespace transnext::cuda {
namespace {

constexpr unsigned kDefaultSharedBytes = 48 * 1024;  // more needs to be asked for

void check(cudaError_t status, const char* op) {
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

const void* find(const std::string& name) {
  for (const KernelTable& table :
       {aggregated_attention_kernels(), aggregated_attention_backward_kernels(), conv_glu_kernels(),
        gelu_pool_kernels(), position_bias_table_kernels(), window_kernels()}) {
    for (const Kernel* kernel = table.begin; kernel != table.begin + table.size; ++kernel) {
      if (name == kernel->name) return kernel->function;
    }
  }
  throw std::runtime_error("the compiled library has no CUDA kernel " + name);
}

}  // namespace

void run(const char* op, const Launches& launches, int device, void* stream) {
  const DeviceGuard guard(device, op);
  for (const KernelLaunch& launch : launches.kernels) {
    const void* function = find(launch.kernel);
    const LaunchPlan& plan = launch.plan;
    if (plan.shared_bytes > kDefaultSharedBytes) {
      check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(plan.shared_bytes)),
            op);
    }
    void* arguments[] = {const_cast<unsigned char*>(launch.params.data())};
    check(cudaLaunchKernel(function, dim3(plan.grid[0], plan.grid[1], plan.grid[2]),
                           dim3(plan.block[0], plan.block[1], plan.block[2]), arguments,
                           plan.shared_bytes, static_cast<cudaStream_t>(stream)),
          op);
  }
}

int architecture(int device) {
  constexpr const char* kOp = "compute capability";
  int major = 0;
  int minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), kOp);
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), kOp);
  return 10 * major + minor;
}

}  // namespace transnext::cuda
