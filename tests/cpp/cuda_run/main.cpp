// Runs launches with cpp/cuda/compiled/run.cu on the machine that cuda_runtime.h simulates, as named by the
// first argument, and prints what was done, what is left, and the error.
#include <cstdio>
#include <cstring>
#include <exception>

#include "cuda/compiled/kernel_table.h"
#include "cuda/compiled/run.h"
#include "cuda_runtime.h"

Simulated simulated;

namespace transnext::cuda {

const Kernel kKernels[] = {{"gelu_pool_forward<float>", "first"},
                           {"gelu_pool_forward<Half>", "second"},
                           {"gelu_pool_backward<float>", "third"}};

KernelTable add_layer_norm_kernels() {
  return {nullptr, 0};
}
KernelTable aggregated_attention_kernels() {
  return {nullptr, 0};
}
KernelTable aggregated_attention_backward_kernels() {
  return {nullptr, 0};
}
KernelTable conv_glu_kernels() {
  return {nullptr, 0};
}
KernelTable deformable_attention_kernels() {
  return {nullptr, 0};
}
KernelTable gelu_pool_kernels() {
  return table_of(kKernels);
}
KernelTable position_bias_table_kernels() {
  return {nullptr, 0};
}
KernelTable window_kernels() {
  return {nullptr, 0};
}

}  // namespace transnext::cuda

int main(int, char** arguments) {
  using namespace transnext;
  const auto chosen = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
  int device = 1;
  unsigned shared_bytes = 0;
  const char* second = "gelu_pool_forward<Half>";
  if (chosen("large block")) shared_bytes = 64 * 1024;
  if (chosen("too large block")) shared_bytes = 100 * 1024;
  if (chosen("no driver")) simulated.driver = 0;
  if (chosen("no driver") || chosen("old driver"))
    simulated.get_device = cudaErrorInsufficientDriver;
  if (chosen("no device")) device = 2;
  if (chosen("no machine code")) simulated.launch = cudaErrorNoKernelImageForDevice;
  if (chosen("earlier kernel")) simulated.launch = cudaErrorIllegalAddress;
  if (chosen("no kernel")) second = "gelu_pool_forward<Quarter>";
  if (chosen("no such kernels")) second = "matmul<float>";
  Launches launches;
  launches.add("gelu_pool_forward<float>", {{7, 1, 1}, {32, 8, 1}, shared_bytes}, 0);
  launches.add(second, {{5, 1, 1}, {64, 1, 1}, 0}, 0);
  try {
    cuda::run("gelu_pool", launches, device, nullptr);
  } catch (const std::exception& error) {
    simulated.log += std::string("error ") + error.what() + "\n";
  }
  std::printf("%sdevice %d, last error %d\n", simulated.log.c_str(), simulated.device,
              simulated.last);
  return 0;
}
