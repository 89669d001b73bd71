#include "cpu/runtime/openmp_runtime.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#if defined(__linux__)
#include <link.h>
#endif

namespace transnext::cpu {
namespace {

#if defined(__linux__)
// Whether this process was forked and has not called exec since, according to the kernel. Its
// parent may then have used the runtime before this library was loaded.
bool is_forked() {
  constexpr unsigned kForkedWithoutExec = 0x40;  // PF_FORKNOEXEC
  char text[512] = "";
  if (std::FILE* file = std::fopen("/proc/self/stat", "r")) {
    text[std::fread(text, 1, sizeof(text) - 1, file)] = '\0';
    std::fclose(file);
  }
  // "pid (name) state parent group session terminal terminal-group flags ...", any name.
  const char* behind_name = std::strrchr(text, ')');
  unsigned flags = 0;
  if (behind_name == nullptr ||
      std::sscanf(behind_name + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
    return false;
  return (flags & kForkedWithoutExec) != 0;
}
#else
bool is_forked() {
  return false;
}
#endif

// Set, and the handler of later forks registered, when the library is loaded: whatever a parent has
// run, its children know.
std::atomic<bool> forked{[] {
  pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
  return is_forked();
}()};

#if defined(__linux__)
// The library with PyTorch's CPU kernels. Looking up a symbol in it searches the libraries that it
// is linked with, so other packages' copies of an OpenMP runtime are not mistaken for its own.
constexpr char kTorchLibrary[] = "libtorch_cpu.so";

int look_for_torch(dl_phdr_info* info, std::size_t, void* result) {
  const char* name = std::strrchr(info->dlpi_name, '/');
  if (name == nullptr || std::strcmp(name + 1, kTorchLibrary) != 0) return 0;
  *static_cast<void**>(result) = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  return 1;
}

OpenMp functions_of_torch() {
  void* torch = nullptr;
  dl_iterate_phdr(look_for_torch, &torch);
  OpenMp openmp{};
  if (torch == nullptr) return openmp;
  openmp.parallel = reinterpret_cast<decltype(openmp.parallel)>(dlsym(torch, "GOMP_parallel"));
  openmp.thread_number =
      reinterpret_cast<decltype(openmp.thread_number)>(dlsym(torch, "omp_get_thread_num"));
  return openmp;
}
#else
OpenMp functions_of_torch() {
  return {};
}
#endif

}  // namespace

const OpenMp* find_openmp() {
  // Checked first, since a thread that no longer exists may have been looking it up.
  if (forked.load(std::memory_order_relaxed)) return nullptr;
  static const OpenMp found = functions_of_torch();
  return found.parallel != nullptr && found.thread_number != nullptr ? &found : nullptr;
}

}  // namespace transnext::cpu
