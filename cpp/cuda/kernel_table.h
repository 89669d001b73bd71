// The compiled kernels by name: each .cu file of this folder turns its list in device/kernels into a
// table, or into several where it is compiled several times, and run.cu looks a launch's kernel up in
// all of them.
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

// A table that is not its operator's first.
struct KernelPart {
  explicit KernelPart(const KernelTable& kernels) : table(kernels), next(first) { first = this; }

  KernelTable table;
  const KernelPart* next;
  static const KernelPart* first;
};

// An entry of a table, as the lists in device/kernels write it. Names may hold commas.
#define TRANSNEXT_KERNEL(...) {#__VA_ARGS__, reinterpret_cast<const void*>(&__VA_ARGS__)},

// The table of an operator whose kernels are in groups: its function, where the first group is in it.
#if defined(TRANSNEXT_KERNELS) && (TRANSNEXT_KERNELS & 1) == 0
#define TRANSNEXT_KERNEL_TABLE(name, kernels) \
  static const KernelPart name##_part(table_of(kernels));
#else
#define TRANSNEXT_KERNEL_TABLE(name, kernels) \
  KernelTable name() {                        \
    return table_of(kernels);                 \
  }
#endif

KernelTable aggregated_attention_kernels();
KernelTable aggregated_attention_backward_kernels();
KernelTable conv_glu_kernels();
KernelTable gelu_pool_kernels();
KernelTable position_bias_table_kernels();
KernelTable window_kernels();

}  // namespace transnext::cuda
