// How long `vdpbf16ps` takes here, for processors whose name does not tell (processor.h).
#include "cpu/runtime/processor.h"
#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr int kSums = 12;  // independent, enough for any latency
constexpr int kSteps = 500;

template <class Add>
unsigned long long ticks(Add&& add) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const unsigned long long start = __builtin_ia32_rdtsc();
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      add(sums[i]);
      asm volatile("" : "+v"(sums[i]));
    }
  }
  return __builtin_ia32_rdtsc() - start;
}

}  // namespace

double measured_dot_time() {
  const __m512 x = _mm512_set1_ps(0.5f);
  const auto pairs = reinterpret_cast<__m512bh>(x);
  unsigned long long dot = ~0ull;
  unsigned long long single = ~0ull;
  for (int repeat = 0; repeat < 16; ++repeat) {
    const auto dots = ticks([&](__m512& sum) { sum = _mm512_dpbf16_ps(sum, pairs, pairs); });
    const auto singles = ticks([&](__m512& sum) { sum = _mm512_fmadd_ps(sum, x, x); });
    dot = dots < dot ? dots : dot;
    single = singles < single ? singles : single;
  }
  return static_cast<double>(dot) / static_cast<double>(single);
}

TRANSNEXT_END_LEVEL
