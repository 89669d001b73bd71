// The library's entry point: runs a list of launches on a call's tensors and returns an error's
// text.
//
// While kernels run, a fault counts as a kernel's error: an access outside the tensors, dynamic
// shared memory or a thread's stack, or an index outside an array's bounds or a misaligned access,
// which the compiler's checks turn into an illegal instruction.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <signal.h>
#include <string>
#include <vector>

#include "emulation/block.h"
#include "emulation/guarded_memory.h"
#include "emulation/kernels.h"
#include "emulation/shared_memory.h"

namespace transnext::emulation {
namespace {

const GuardedMemory* memory_of_call = nullptr;

void on_fault(int signal, siginfo_t* info, void*) {
  if (!running()) {  // not a kernel's fault: let it end the process as usual
    ::signal(signal, SIG_DFL);
    return;
  }
  if (signal == SIGILL || signal == SIGTRAP)
    fail("an index outside an array's bounds, or a misaligned access");
  if (signal == SIGFPE) fail("a division by zero");
  if (const char* shared = describe_shared_fault(info->si_addr))
    fail("an access outside %s", shared);
  const std::string tensor = memory_of_call->describe(info->si_addr);
  if (!tensor.empty()) fail("an access outside what it may: %s", tensor.c_str());
  fail("an access to %p, which no tensor holds", info->si_addr);
}

// Catches faults from construction to destruction.
class FaultHandlers {
 public:
  FaultHandlers() {
    static unsigned char* const stack = static_cast<unsigned char*>(std::malloc(kStackBytes));
    stack_t own{};
    own.ss_sp = stack;
    own.ss_size = kStackBytes;
    sigaltstack(&own, &previous_stack_);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    // The handler leaves by switching fibers and never returns, so no signal may stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < kSignals; ++i) sigaction(kCaught[i], &action, &previous_[i]);
  }
  ~FaultHandlers() {
    for (int i = 0; i < kSignals; ++i) sigaction(kCaught[i], &previous_[i], nullptr);
    sigaltstack(&previous_stack_, nullptr);
  }
  FaultHandlers(const FaultHandlers&) = delete;
  FaultHandlers& operator=(const FaultHandlers&) = delete;

 private:
  static constexpr std::size_t kStackBytes = 64 * 1024;
  static constexpr int kSignals = 5;
  static constexpr int kCaught[kSignals] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
  struct sigaction previous_[kSignals];
  stack_t previous_stack_;
};

struct LaunchRequest {
  const char* kernel;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  unsigned params_bytes;
  const unsigned char* params;
};

std::string run_launch(const LaunchRequest& request, const GuardedMemory& memory,
                       std::uint64_t seed) {
  const auto found = kernels().find(request.kernel);
  if (found == kernels().end()) return std::string("no kernel ") + request.kernel;
  if (request.params_bytes != found->second.params_bytes) {
    return std::string(request.kernel) + " takes " + std::to_string(found->second.params_bytes) +
           " bytes of parameters, got " + std::to_string(request.params_bytes);
  }
  if (request.shared_bytes > kMostSharedBytes)
    return std::string(request.kernel) + ": more shared memory than any GPU has";
  // Aligned for the struct that the kernel expects.
  std::vector<unsigned char> params(request.params, request.params + request.params_bytes);
  memory.translate(params);
  const auto index = [](const unsigned (&size)[3]) { return Index3{size[0], size[1], size[2]}; };
  const Launch launch{request.kernel,      found->second.call,   params.data(),
                      index(request.grid), index(request.block), request.shared_bytes};
  const char* error = run_grid(launch, seed);
  return error == nullptr ? std::string() : error;
}

std::string run_all(const LaunchRequest* launches, int launch_count, const TensorRange* tensors,
                    int tensor_count, std::uint64_t seed) {
  const GuardedMemory memory(tensors, tensor_count, seed % 2 == 0);
  memory_of_call = &memory;
  {
    const FaultHandlers handlers;
    for (int i = 0; i < launch_count; ++i) {
      std::string error = run_launch(launches[i], memory, seed + static_cast<std::uint64_t>(i));
      if (!error.empty()) return error;
      error = memory.slack_error();
      if (!error.empty()) return std::string(launches[i].kernel) + ": " + error;
    }
  }
  memory.copy_back();
  return {};
}

}  // namespace
}  // namespace transnext::emulation

extern "C" {

// Runs the launches one after the other, all on copies of the tensors between guard pages, and
// writes the outputs back. Returns 0, or 1 with the reason in `error`. `seed` shuffles the order of
// blocks and threads; its lowest bit selects the guard that the tensors touch (0: the one behind
// their end). One call at a time.
__attribute__((visibility("default"))) int transnext_emulate(
    const transnext::emulation::LaunchRequest* launches, int launch_count,
    const transnext::emulation::TensorRange* tensors, int tensor_count, unsigned long long seed,
    char* error, int error_bytes) {
  const std::string text =
      transnext::emulation::run_all(launches, launch_count, tensors, tensor_count, seed);
  std::snprintf(error, static_cast<std::size_t>(error_bytes), "%s", text.c_str());
  return text.empty() ? 0 : 1;
}

// The names of all kernels, one per line.
__attribute__((visibility("default"))) const char* transnext_emulated_kernels() {
  static std::string names;
  names.clear();
  for (const auto& entry : transnext::emulation::kernels()) names += entry.first + "\n";
  return names.c_str();
}
}
