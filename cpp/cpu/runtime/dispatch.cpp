#include "cpu/runtime/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/runtime/kernels.h"

namespace transnext::cpu {

#define TRANSNEXT_POINTER(function, Params) void (*function)(const Params&, int);
struct Kernels {
  TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_POINTER)
};
#undef TRANSNEXT_POINTER

#define TRANSNEXT_DECLARE(function, Params) void function(const Params&, int);
#define TRANSNEXT_ENTRY(function, Params) function,
#define TRANSNEXT_DECLARE_LEVEL(level)                                           \
  namespace level {                                                              \
  TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)                               \
  constexpr Kernels kKernels = {TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)}; \
  }
#if defined(TRANSNEXT_HAS_BASELINE)
TRANSNEXT_DECLARE_LEVEL(baseline)
#endif
#if defined(TRANSNEXT_HAS_NEON)
TRANSNEXT_DECLARE_LEVEL(neon)
#endif
#if defined(TRANSNEXT_HAS_AVX2)
TRANSNEXT_DECLARE_LEVEL(avx2)
#endif
#if defined(TRANSNEXT_HAS_AVX512)
TRANSNEXT_DECLARE_LEVEL(avx512)
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
TRANSNEXT_DECLARE_LEVEL(avx512_bf16)
#endif
#undef TRANSNEXT_DECLARE_LEVEL
#undef TRANSNEXT_ENTRY
#undef TRANSNEXT_DECLARE

namespace {

struct Level {
  const char* name;
  bool available;
  const Kernels& kernels;
};

#if defined(TRANSNEXT_HAS_AVX2)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#endif
#if defined(TRANSNEXT_HAS_AVX512) || defined(TRANSNEXT_HAS_AVX512_BF16)
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Slowest first. Every processor of the family can run the first.
const Level kLevels[] = {
#if defined(TRANSNEXT_HAS_BASELINE)
    {"baseline", true, baseline::kKernels},
#endif
#if defined(TRANSNEXT_HAS_NEON)
    {"neon", true, neon::kKernels},
#endif
#if defined(TRANSNEXT_HAS_AVX2)
    {"avx2", has_avx2(), avx2::kKernels},
#endif
#if defined(TRANSNEXT_HAS_AVX512)
    {"avx512", has_avx512(), avx512::kKernels},
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
    {"avx512_bf16", has_avx512() && __builtin_cpu_supports("avx512bf16"), avx512_bf16::kKernels},
#endif
};

const Level* find_level(const std::string& name) {
  std::string known;
  for (const Level& level : kLevels) {
    if (level.available && name == level.name) return &level;
    if (level.available) known += (known.empty() ? "" : ", ") + std::string(level.name);
  }
  throw std::runtime_error("CPU level '" + name +
                           "' is not available: this build and processor have " + known);
}

const Level* default_level() {
  const char* wanted = std::getenv("TRANSNEXT_CPU_LEVEL");
  if (wanted != nullptr && *wanted != '\0') {
    try {
      return find_level(wanted);
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(std::string("environment variable TRANSNEXT_CPU_LEVEL: ") +
                               error.what());
    }
  }
  const Level* best = nullptr;
  for (const Level& level : kLevels) {
    if (level.available) best = &level;
  }
  return best;
}

std::atomic<const Level*> current_level{nullptr};

const Level& level() {
  const Level* current = current_level.load(std::memory_order_acquire);
  if (current == nullptr) {
    current = default_level();
    current_level.store(current, std::memory_order_release);
  }
  return *current;
}

}  // namespace

const char* level_name() {
  return level().name;
}

void set_level(const char* name) {
  current_level.store(name != nullptr ? find_level(name) : default_level());
}

std::vector<std::string> available_levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (level.available) names.emplace_back(level.name);
  }
  return names;
}

#define TRANSNEXT_ENTRY_POINT(function, Params)      \
  void function(const Params& params, int threads) { \
    level().kernels.function(params, threads);       \
  }
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY_POINT)
#undef TRANSNEXT_ENTRY_POINT

}  // namespace transnext::cpu
