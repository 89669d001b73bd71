// The compiled kernels by name: each .cu file of this folder turns its list in cuda/instances into
// a table, or into several if it is compiled several times, and run.cu looks up a launch's kernel
// in all of them.
#pragma once

#include <cstddef>

namespace transnext::cuda {

struct Kernel {
  const char* name;
  const void* function;  // for cudaLaunchKernel
};

struct KernelTable {
  const Kernel* begin;
  std::size_t size;
};

template <std::size_t kSize>
constexpr KernelTable table_of(const Kernel (&kernels)[kSize]) {
  return {kernels, kSize};
}

// A further table of an operator.
struct KernelPart {
  explicit KernelPart(const KernelTable& kernels) : table(kernels), next(first) { first = this; }

  KernelTable table;
  const KernelPart* next;
  static const KernelPart* first;
};

// An entry of a table, as written in the lists of cuda/instances. Names may hold commas.
#define TRANSNEXT_KERNEL(...) {#__VA_ARGS__, reinterpret_cast<const void*>(&__VA_ARGS__)},

// Defines the table of an operator whose kernels are in groups: as the operator's function if it
// holds the first group.
#if defined(TRANSNEXT_KERNELS) && (TRANSNEXT_KERNELS & 1) == 0
#define TRANSNEXT_KERNEL_TABLE(name, kernels) \
  static const KernelPart name##_part(table_of(kernels));
#else
#define TRANSNEXT_KERNEL_TABLE(name, kernels) \
  KernelTable name() {                        \
    return table_of(kernels);                 \
  }
#endif

KernelTable add_layer_norm_kernels();
KernelTable aggregated_attention_kernels();
KernelTable aggregated_attention_backward_kernels();
KernelTable conv_glu_kernels();
KernelTable deformable_attention_kernels();
KernelTable gelu_pool_kernels();
KernelTable position_bias_table_kernels();
KernelTable window_kernels();

}  // namespace transnext::cuda
