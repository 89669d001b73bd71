#include "cpu/runtime/processor.h"

#include <cerrno>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <unistd.h>

#include <sys/auxv.h>
#include <sys/syscall.h>
#endif

namespace transnext::cpu {

bool has_neon_bf16() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kBFloat16 = 1ul << 14;  // HWCAP2_BF16
  return (getauxval(AT_HWCAP2) & kBFloat16) != 0;
#else
  return false;
#endif
}

#if defined(__x86_64__)
namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// Which registers the system saves.
unsigned saved_state() {
  constexpr unsigned kSystemSaves = 1u << 27;
  if ((cpuid(1, 0).ecx & kSystemSaves) == 0) return 0;
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// 0, or the error with which Linux refuses the tiles.
int ask_for_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, of Linux 5.16
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 0 : errno;
#else
  return 0;
#endif
}

}  // namespace

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_bf16() {
  constexpr unsigned kDotProducts = 1u << 5;
  return has_avx512() && (cpuid(7, 1).eax & kDotProducts) != 0;
}

bool has_tiles() {
  constexpr unsigned kBFloat16AndTiles = 1u << 22 | 1u << 24;
  constexpr unsigned kTileState = 1u << 17 | 1u << 18;
  return (cpuid(7, 0).edx & kBFloat16AndTiles) == kBFloat16AndTiles &&
         (saved_state() & kTileState) == kTileState;
}

const std::string& tile_refusal() {
  static const std::string refusal = [] {
    const int error = ask_for_tiles();
    return error == 0 ? std::string()
                      : "Linux refuses the tile registers (arch_prctl: " +
                            std::string(std::strerror(error)) + ")";
  }();
  return refusal;
}

bool has_slow_dot_products() {
  static const bool slow = [] {
    const Registers vendor = cpuid(0, 0);
    const auto is = [&](const char* name) {
      return std::memcmp(&vendor.ebx, name, 4) == 0 && std::memcmp(&vendor.edx, name + 4, 4) == 0 &&
             std::memcmp(&vendor.ecx, name + 8, 4) == 0;
    };
    if (is("AuthenticAMD")) return false;
    const unsigned signature = cpuid(1, 0).eax;
    const unsigned family = signature >> 8 & 0xf;
    const unsigned model = (signature >> 12 & 0xf0) | (signature >> 4 & 0xf);
    // Sapphire, Emerald and Granite Rapids.
    if (is("GenuineIntel") && family == 6)
      for (const unsigned known : {143u, 207u, 173u, 174u})
        if (model == known) return true;
#if defined(TRANSNEXT_HAS_AVX512_BF16)
    return avx512_bf16::measured_dot_time() > 2.25;  // two products widened cost about that
#else
    return false;
#endif
  }();
  return slow;
}
#endif

}  // namespace transnext::cpu
