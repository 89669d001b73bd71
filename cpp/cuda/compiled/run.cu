#include <cuda_runtime.h>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "cuda/compiled/kernel_table.h"
#include "cuda/compiled/run.h"

namespace transnext::cuda {

const KernelPart* KernelPart::first = nullptr;

namespace {

constexpr unsigned kDefaultSharedBytes = 48 * 1024;  // more must be requested

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  cudaDeviceGetAttribute(&value, name, device);
  return value;
}

std::string version(int major, int minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string cuda_version(int number) {
  return version(number / 1000, number % 1000 / 10);
}

std::string sizes(const unsigned (&values)[3]) {
  return "(" + std::to_string(values[0]) + ", " + std::to_string(values[1]) + ", " +
         std::to_string(values[2]) + ")";
}

// What the device or the driver must be, for an error that they cause.
std::string needed(cudaError_t status, int device) {
  switch (status) {
    case cudaErrorInsufficientDriver: {
      int driver = 0;
      cudaDriverGetVersion(&driver);
      return "; the driver is " +
             (driver == 0 ? std::string("not there") : "for CUDA " + cuda_version(driver)) +
             ", needs CUDA " + cuda_version(CUDART_VERSION) + " or newer";
    }
    case cudaErrorNoKernelImageForDevice: {
      const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
      const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
      return "; the device has compute capability " + version(major, minor) +
             ", the library's kernels are for " TRANSNEXT_CUDA_ARCHITECTURES
             "; rebuild it with CMAKE_CUDA_ARCHITECTURES=" +
             std::to_string(10 * major + minor);
    }
    default:
      return {};
  }
}

[[noreturn]] void fail(const char* op, cudaError_t status, const std::string& what, int device) {
  const std::string reason = needed(status, device);
  cudaGetLastError();  // clears an error that is not sticky, so that no later call sees it
  throw std::runtime_error(std::string(op) + ": " + what + ": CUDA error " +
                           cudaGetErrorName(status) + ": " + cudaGetErrorString(status) + reason);
}

[[noreturn]] void fail(const char* op, cudaError_t status, const KernelLaunch& launch, int device) {
  const unsigned bytes = launch.plan.shared_bytes;
  std::string what = "cannot launch " + launch.kernel + " with grid " + sizes(launch.plan.grid) +
                     ", block " + sizes(launch.plan.block) + " and " + std::to_string(bytes) +
                     " bytes of shared memory";
  if (bytes > kDefaultSharedBytes)
    what += ", of " + std::to_string(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) +
            " that the device has for a block";
  fail(op, status, what, device);
}

// Makes `device` current during a launch.
class DeviceGuard {
 public:
  DeviceGuard(int device, const char* op) {
    cudaError_t status = cudaGetDevice(&previous_);
    if (status == cudaSuccess && previous_ != device) {
      status = cudaSetDevice(device);
      changed_ = status == cudaSuccess;
    }
    if (status != cudaSuccess)
      fail(op, status, "cannot use CUDA device " + std::to_string(device), device);
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

// Calls visit(kernel) for the kernels of a table until it returns true; returns whether it did.
template <class Visit>
bool visit_table(const KernelTable& table, const Visit& visit) {
  for (const Kernel* kernel = table.begin; kernel != table.begin + table.size; ++kernel)
    if (visit(*kernel)) return true;
  return false;
}

// Calls visit(kernel) for every kernel until it returns true.
template <class Visit>
void visit_kernels(const Visit& visit) {
  for (const KernelTable& table :
       {add_layer_norm_kernels(), aggregated_attention_kernels(),
        aggregated_attention_backward_kernels(), conv_glu_kernels(), deformable_attention_kernels(),
        gelu_pool_kernels(), position_bias_table_kernels(), window_kernels()}) {
    if (visit_table(table, visit)) return;
  }
  for (const KernelPart* part = KernelPart::first; part != nullptr; part = part->next)
    if (visit_table(part->table, visit)) return;
}

const void* find(const char* op, const std::string& name) {
  const void* function = nullptr;
  visit_kernels([&](const Kernel& kernel) {
    if (name != kernel.name) return false;
    function = kernel.function;
    return true;
  });
  if (function != nullptr) return function;
  const std::string family = name.substr(0, name.find('<') + 1);
  std::string instances;
  visit_kernels([&](const Kernel& kernel) {
    const std::string other = kernel.name;
    if (other.compare(0, family.size(), family) == 0)
      instances += (instances.empty() ? ", needs " : " or ") + other;
    return false;
  });
  throw std::runtime_error(std::string(op) + ": the compiled library has no CUDA kernel " + name +
                           instances);
}

}  // namespace

void run(const char* op, const Launches& launches, int device, void* stream) {
  const DeviceGuard guard(device, op);
  for (const KernelLaunch& launch : launches.kernels) {
    const void* function = find(op, launch.kernel);
    const LaunchPlan& plan = launch.plan;
    cudaError_t status = cudaSuccess;
    if (plan.shared_bytes > kDefaultSharedBytes)
      status = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(plan.shared_bytes));
    void* arguments[] = {const_cast<unsigned char*>(launch.params.data())};
    if (status == cudaSuccess)
      status = cudaLaunchKernel(function, dim3(plan.grid[0], plan.grid[1], plan.grid[2]),
                                dim3(plan.block[0], plan.block[1], plan.block[2]), arguments,
                                plan.shared_bytes, static_cast<cudaStream_t>(stream));
    if (status != cudaSuccess) fail(op, status, launch, device);
  }
}

}  // namespace transnext::cuda
