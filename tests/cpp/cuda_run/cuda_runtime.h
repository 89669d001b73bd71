// What cpp/cuda/compiled/run.cu uses of the CUDA runtime, answering as `simulated` says: errors of drivers and
// devices that the machine has not got.
#pragma once

#include <cstddef>
#include <string>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_, unsigned y_, unsigned z_) : x(x_), y(y_), z(z_) {}
};

#define CUDART_VERSION 13000

// A machine with two devices of compute capability 7.0, and what fails on it.
struct Simulated {
  cudaError_t get_device = cudaSuccess;
  cudaError_t launch = cudaSuccess;
  int driver = 12020;
  int device = 0;  // current
  cudaError_t last = cudaSuccess;
  std::string log;  // of what was done
};
extern Simulated simulated;

inline cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) simulated.last = status;
  return status;
}
inline const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaSuccess";
  }
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "in words";
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t last = simulated.last;
  simulated.last = cudaSuccess;
  return last;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = simulated.driver;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = simulated.device;
  return returned(simulated.get_device);
}
inline cudaError_t cudaSetDevice(int device) {
  if (device > 1) return returned(cudaErrorInvalidDevice);
  simulated.device = device;
  simulated.log += "device " + std::to_string(device) + "\n";
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  const int values[] = {7, 0, 96 * 1024};
  *value = values[name];
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  if (bytes > 96 * 1024) return returned(cudaErrorInvalidValue);
  simulated.log += "shared " + std::to_string(bytes) + "\n";
  return cudaSuccess;
}
inline cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**,
                                    std::size_t shared_bytes, cudaStream_t) {
  if (simulated.launch != cudaSuccess) return returned(simulated.launch);
  simulated.log += std::string(static_cast<const char*>(function)) + " " + std::to_string(grid.x) +
                   " " + std::to_string(block.x) + " " + std::to_string(shared_bytes) + "\n";
  return cudaSuccess;
}
