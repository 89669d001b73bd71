// fingerprint on the CPU: 64 independent hashes, one for every eighth byte of a 512-byte stripe,
// folded into one at the end. They are independent, so the latency of a step's multiplication does
// not limit the speed: with 64-bit vector multiplications one thread reads as fast as memory
// allows, with emulated ones (AVX2) two threads do.
#include "transnext/fingerprint.h"

#include "cpu/runtime/kernels.h"
#include "cpu/runtime/level.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

// Eight words, whatever the width of this level's registers: every level computes the same hash.
typedef Hash Words __attribute__((vector_size(64)));

constexpr int kVectors = 8;
constexpr int kWords = 8;
constexpr index_t kStripe = kVectors * sizeof(Words);

inline void absorb(Words (&state)[kVectors], const char* stripe) {
  for (int i = 0; i < kVectors; ++i) {
    Words words;
    __builtin_memcpy(&words, stripe + i * sizeof(Words), sizeof(Words));
    const Words both = state[i] ^ words;
    state[i] = (both << 29 | both >> 35) * 0x9FB21C651E98DF25ull;
  }
}

Hash hash_of(const MemorySpan& span) {
  Words state[kVectors];
  Hash start = span.seed;
  for (int i = 0; i < kVectors; ++i)
    for (int j = 0; j < kWords; ++j) state[i][j] = start = mixed(start, 0x9E3779B97F4A7C15ull);
  const char* bytes = static_cast<const char*>(span.data);
  const index_t whole = span.bytes / kStripe * kStripe;
  for (index_t at = 0; at < whole; at += kStripe) absorb(state, bytes + at);
  if (whole <
      span.bytes) {  // padded with zeros; the length distinguishes them from zeros in the data
    char last[kStripe] = {};
    __builtin_memcpy(last, bytes + whole, static_cast<unsigned long>(span.bytes - whole));
    absorb(state, last);
  }
  Hash hash = mixed(span.seed, static_cast<Hash>(span.bytes));
  for (int i = 0; i < kVectors; ++i)
    for (int j = 0; j < kWords; ++j) hash = mixed(hash, state[i][j]);
  return hash;
}

}  // namespace

void fingerprint(const FingerprintParams& p, int threads) {
  parallel_for(p.count, threads, [&](index_t span) { p.hashes[span] = hash_of(p.spans[span]); });
}

TRANSNEXT_END_LEVEL
