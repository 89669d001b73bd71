#include "cpu/runtime/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/runtime/kernels.h"
#include "cpu/runtime/level_types.h"
#include "cpu/runtime/processor.h"

namespace transnext::cpu {

// Of a level; nullptr where it has none.
#define TRANSNEXT_POINTER(function, Params) void (*function)(const Params&, int) = nullptr;
struct Kernels {
  TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_POINTER)
};
#undef TRANSNEXT_POINTER

// Level `level` with the kernels of a list.
#define TRANSNEXT_DECLARE(function, Params) void function(const Params&, int);
#define TRANSNEXT_SET(function, Params) kernels.function = function;
#define TRANSNEXT_DECLARE_LEVEL(level, TRANSNEXT_FOR_EACH) \
  namespace level {                                        \
  TRANSNEXT_FOR_EACH(TRANSNEXT_DECLARE)                    \
  constexpr Kernels make_kernels() {                       \
    Kernels kernels;                                       \
    TRANSNEXT_FOR_EACH(TRANSNEXT_SET)                      \
    return kernels;                                        \
  }                                                        \
  constexpr Kernels kKernels = make_kernels();             \
  }
#if defined(TRANSNEXT_HAS_BASELINE)
TRANSNEXT_DECLARE_LEVEL(baseline, TRANSNEXT_FOR_EACH_CPU_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_NEON)
TRANSNEXT_DECLARE_LEVEL(neon, TRANSNEXT_FOR_EACH_CPU_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_NEON_BF16)
TRANSNEXT_DECLARE_LEVEL(neon_bf16, TRANSNEXT_FOR_EACH_GEMM_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_AVX2)
TRANSNEXT_DECLARE_LEVEL(avx2, TRANSNEXT_FOR_EACH_LEVEL_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_AVX512)
TRANSNEXT_DECLARE_LEVEL(avx512, TRANSNEXT_FOR_EACH_LEVEL_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
TRANSNEXT_DECLARE_LEVEL(avx512_bf16, TRANSNEXT_FOR_EACH_BFLOAT16_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_AMX_BF16)
TRANSNEXT_DECLARE_LEVEL(amx_bf16, TRANSNEXT_FOR_EACH_TILE_KERNEL)
#endif
#if defined(TRANSNEXT_HAS_AMX_EMULATED)
TRANSNEXT_DECLARE_LEVEL(amx_emulated, TRANSNEXT_FOR_EACH_TILE_KERNEL)
#endif
#undef TRANSNEXT_DECLARE_LEVEL
#undef TRANSNEXT_SET
#undef TRANSNEXT_DECLARE

namespace {

struct Level {
  const char* name;
  const Kernels& kernels;
  unsigned types;  // that these are for
  bool (*runs_here)();
  // Why it is not the default, if it can or could run; empty if nothing is against it.
  std::string (*drawback)();
};

bool always() {
  return true;
}
std::string none() {
  return "";
}
#if defined(TRANSNEXT_HAS_AVX512_BF16)
std::string slow_dot_products() {
  return has_avx512_bf16() && has_slow_dot_products()
             ? "its dot products of bfloat16 are slower here than products in float32"
             : "";
}
#endif
#if defined(TRANSNEXT_HAS_AMX_BF16)
bool runs_tiles() {
  return has_avx512_bf16() && has_tiles() && tile_refusal().empty();
}
std::string refused_tiles() {
  return has_avx512_bf16() && has_tiles() ? tile_refusal() : "";
}
#endif
#if defined(TRANSNEXT_HAS_AMX_EMULATED)
bool emulates_tiles() {
#if defined(TRANSNEXT_HAS_AVX2)  // whose instructions it is compiled for
  return has_avx2();
#else
  return true;
#endif
}
std::string for_tests() {
  return "it emulates the tile unit, for tests";
}
#endif

// Slowest first, but for the emulation, which stands above the level that it is compiled as. Every
// processor of the family can run the first, which has every kernel for every type; a processor
// that can run a level can run those before it.
const Level kLevels[] = {
#if defined(TRANSNEXT_HAS_BASELINE)
    {"baseline", baseline::kKernels, level_types::baseline, always, none},
#endif
#if defined(TRANSNEXT_HAS_NEON)
    {"neon", neon::kKernels, level_types::neon, always, none},
#endif
#if defined(TRANSNEXT_HAS_NEON_BF16)
    {"neon_bf16", neon_bf16::kKernels, level_types::neon_bf16, has_neon_bf16, none},
#endif
#if defined(TRANSNEXT_HAS_AVX2)
    {"avx2", avx2::kKernels, level_types::avx2, has_avx2, none},
#endif
#if defined(TRANSNEXT_HAS_AMX_EMULATED)
    {"amx_emulated", amx_emulated::kKernels, level_types::amx_emulated, emulates_tiles, for_tests},
#endif
#if defined(TRANSNEXT_HAS_AVX512)
    {"avx512", avx512::kKernels, level_types::avx512, has_avx512, none},
#endif
#if defined(TRANSNEXT_HAS_AVX512_BF16)
    {"avx512_bf16", avx512_bf16::kKernels, level_types::avx512_bf16, has_avx512_bf16,
     slow_dot_products},
#endif
#if defined(TRANSNEXT_HAS_AMX_BF16)
    {"amx_bf16", amx_bf16::kKernels, level_types::amx_bf16, runs_tiles, refused_tiles},
#endif
};

const Level* find_level(const std::string& name) {
  std::string known;
  for (const Level& level : kLevels) {
    if (!level.runs_here()) continue;
    if (name == level.name) return &level;
    known += (known.empty() ? "" : ", ") + std::string(level.name);
  }
  throw std::runtime_error("CPU level '" + name +
                           "' is not available: this build and processor have " + known);
}

const Level* fastest_level() {
  const Level* best = nullptr;
  for (const Level& level : kLevels) {
    if (level.runs_here() && level.drawback().empty()) best = &level;
  }
  return best;
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
  return fastest_level();
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

// The type of a kernel, as level_types.h defines it.
DType type_of(const AggregatedAttentionParams& p) {
  return p.in.q.dtype;
}
DType type_of(const AggregatedAttentionBackwardParams& p) {
  return p.in.q.dtype;
}
DType type_of(const AddLayerNormParams& p) {
  return p.branch.dtype;
}
DType type_of(const AddLayerNormBackwardParams& p) {
  return p.d_normed.dtype;
}
DType type_of(const AttentionBranchParams& p) {
  return p.features;
}
DType type_of(const ConvGluParams& p) {
  return p.x.dtype;
}
DType type_of(const ConvGluBackwardParams& p) {
  return p.x.dtype;
}
DType type_of(const ConvolutionalGluParams& p) {
  return p.fc2_weight.dtype;
}
DType type_of(const DeformableAttentionParams& p) {
  return p.in.value.dtype;
}
DType type_of(const DeformableAttentionBackwardParams& p) {
  return p.in.value.dtype;
}
DType type_of(const FingerprintParams&) {
  return DType::kFloat32;  // bytes
}
DType type_of(const GeluPoolParams& p) {
  return p.x.dtype;
}
DType type_of(const GeluPoolBackwardParams& p) {
  return p.x.dtype;
}
DType type_of(const LinearParams& p) {
  return p.weight.dtype;
}
DType type_of(const PackWeightParams& p) {
  return p.packed.dtype;
}
DType type_of(const PatchEmbedParams& p) {
  return p.weight.dtype;
}
DType type_of(const PositionBiasTableParams& p) {
  return p.table.dtype;
}
DType type_of(const PositionBiasTableBackwardParams& p) {
  return p.d_table.dtype;
}
DType type_of(const PooledLinearParams& p) {
  return p.x.dtype;
}
DType type_of(const TokenNormParams& p) {
  return p.x.dtype;
}
DType type_of(const WeightGradientParams& p) {
  return p.x.dtype;
}
DType type_of(const WindowAvParams& p) {
  return p.v.dtype;
}
DType type_of(const WindowAvBackwardParams& p) {
  return p.v.dtype;
}
DType type_of(const WindowQkParams& p) {
  return p.q.dtype;
}
DType type_of(const WindowQkBackwardParams& p) {
  return p.q.dtype;
}

// Runs a kernel of the current level or, where that has none for the type, of the next one below.
template <class Params>
void run(void (*Kernels::*kernel)(const Params&, int), const Params& params, int threads) {
  const unsigned type = type_bit(type_of(params));
  const Level* best = &level();
  if (type_of(params) == kSplitFloat && (best->types & type) == 0) {
    throw std::runtime_error(
        "weights packed for float32 split into bfloat16 (precision 'high') "
        "need a CPU level with a tile unit, in force is " +
        std::string(best->name));
  }
  while ((best->types & type) == 0 || best->kernels.*kernel == nullptr) --best;
  (best->kernels.*kernel)(params, threads);
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
    if (level.runs_here()) names.emplace_back(level.name);
  }
  return names;
}

bool splits_float32() {
  return (level().types & type_bit(kSplitFloat)) != 0;
}

std::vector<std::string> passed_over_levels() {
  std::vector<std::string> reasons;
  const Level* const best = fastest_level();
  for (const Level& level : kLevels) {
    if (&level < best) continue;
    const std::string drawback = level.drawback();
    if (!drawback.empty()) reasons.push_back(std::string(level.name) + ": " + drawback);
  }
  return reasons;
}

#define TRANSNEXT_ENTRY_POINT(function, Params)      \
  void function(const Params& params, int threads) { \
    run(&Kernels::function, params, threads);        \
  }
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY_POINT)
#undef TRANSNEXT_ENTRY_POINT

}  // namespace transnext::cpu
