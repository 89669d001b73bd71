#include "cpu/openmp_runtime.h"

#include <atomic>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#if defined(__linux__)
#include <link.h>
#endif

namespace transnext::cpu {
namespace {

std::atomic<bool> forked{false};

#if defined(__linux__)
// The library that PyTorch's CPU kernels are in. Asking it for a symbol asks the libraries it is
// linked with, so that other packages' copies of an OpenMP runtime are not mistaken for its own.
constexpr char kTorchLibrary[] = "libtorch_cpu.so";

int look_for_torch(dl_phdr_info* info, std::size_t, void* result) {
  const char* name = std::strrchr(info->dlpi_name, '/');
  if (name == nullptr || std::strcmp(name + 1, kTorchLibrary) != 0) return 0;
  *static_cast<void**>(result) = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  return 1;
}

OpenMpParallel find_parallel() {
  void* torch = nullptr;
  dl_iterate_phdr(look_for_torch, &torch);
  if (torch == nullptr) return nullptr;
  pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
  return reinterpret_cast<OpenMpParallel>(dlsym(torch, "GOMP_parallel"));
}
#else
OpenMpParallel find_parallel() {
  return nullptr;
}
#endif

}  // namespace

OpenMpParallel openmp_parallel() {
  static const OpenMpParallel found = find_parallel();
  return forked.load(std::memory_order_relaxed) ? nullptr : found;
}

}  // namespace transnext::cpu
