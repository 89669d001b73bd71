#include "cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

#define TRANSNEXT_DECLARE(function, Params) void function(const Params&, int);
#if defined(TRANSNEXT_HAS_BASELINE)
namespace transnext::cpu::baseline {
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
}
#endif
#if defined(TRANSNEXT_HAS_NEON)
namespace transnext::cpu::neon {
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
}
#endif
#if defined(TRANSNEXT_HAS_AVX2)
namespace transnext::cpu::avx2 {
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
}
#endif
#if defined(TRANSNEXT_HAS_AVX512)
namespace transnext::cpu::avx512 {
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
}
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
namespace transnext::cpu::avx512_bf16 {
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_DECLARE)
}
#endif
#undef TRANSNEXT_DECLARE

namespace transnext::cpu {
namespace {

#define TRANSNEXT_POINTER(function, Params) void (*function)(const Params&, int);
struct Level {
  const char* name;
  bool available;
  TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_POINTER)
};
#undef TRANSNEXT_POINTER

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

// Slowest first. The first is what every processor of the family can run.
const Level kLevels[] = {
#if defined(TRANSNEXT_HAS_BASELINE)
#define TRANSNEXT_ENTRY(function, Params) baseline::function,
    {"baseline", true, TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)},
#undef TRANSNEXT_ENTRY
#endif
#if defined(TRANSNEXT_HAS_NEON)
#define TRANSNEXT_ENTRY(function, Params) neon::function,
    {"neon", true, TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)},
#undef TRANSNEXT_ENTRY
#endif
#if defined(TRANSNEXT_HAS_AVX2)
#define TRANSNEXT_ENTRY(function, Params) avx2::function,
    {"avx2", has_avx2(), TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)},
#undef TRANSNEXT_ENTRY
#endif
#if defined(TRANSNEXT_HAS_AVX512)
#define TRANSNEXT_ENTRY(function, Params) avx512::function,
    {"avx512", has_avx512(), TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)},
#undef TRANSNEXT_ENTRY
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
#define TRANSNEXT_ENTRY(function, Params) avx512_bf16::function,
    {"avx512_bf16", has_avx512() && __builtin_cpu_supports("avx512bf16"),
     TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY)},
#undef TRANSNEXT_ENTRY
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
    level().function(params, threads);               \
  }
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY_POINT)
#undef TRANSNEXT_ENTRY_POINT

}  // namespace transnext::cpu
