// The compiled kernels by name: each .cu file of this folder turns its list in device/kernels into a
// table, and run.cu looks a launch's kernel up in all of them.
#pragma once

#include <cstddef>

namespace transnext::cuda {

struct Kernel {
  const char* name;
  const void* function;  // what cudaLaunchKernel takes
};

struct KernelTable {
  const Kernel* begin;
  std::size_t size;
};

template <std::size_t kSize>
constexpr KernelTable table_of(const Kernel (&kernels)[kSize]) {
  return {kernels, kSize};
}

// An entry of a table, as the lists in device/kernels write it. Names may hold commas.
#define TRANSNEXT_KERNEL(...) {#__VA_ARGS__, reinterpret_cast<const void*>(&__VA_ARGS__)},

KernelTable aggregated_attention_kernels();
KernelTable aggregated_attention_backward_kernels();
KernelTable conv_glu_kernels();
KernelTable gelu_pool_kernels();
KernelTable position_bias_table_kernels();
KernelTable window_kernels();

}  // namespace transnext::cuda
