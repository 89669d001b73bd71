// The table of this library's kernels, filled by its operators' files.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <utility>

namespace transnext::emulation {

struct Kernel {
  void (*call)(const void* params);
  std::size_t params_bytes;
};

inline std::unordered_map<std::string, Kernel>& kernels() {
  static std::unordered_map<std::string, Kernel> table;
  return table;
}

// Calls the kernel as one thread of the grid does: with its parameters by value.
template <class Params, void (*kKernel)(Params)>
void call_kernel(const void* params) {
  kKernel(*static_cast<const Params*>(params));
}

template <auto kKernel>
struct KernelOf;
template <class Params, void (*kKernel)(Params)>
struct KernelOf<kKernel> {
  static constexpr Kernel value{call_kernel<Params, kKernel>, sizeof(Params)};
};

struct Registration {
  Registration(std::initializer_list<std::pair<const char*, Kernel>> list) {
    for (const auto& [name, kernel] : list) kernels().emplace(name, kernel);
  }
};

}  // namespace transnext::emulation
