// fingerprint: a 64-bit hash of memory, to detect changed weights.
//
// Data derived from weights (packed weights, position-bias tables) may be reused only while the
// weights have the same bits. PyTorch's version counters miss some writes, so the bits themselves
// are hashed, as fast as memory can be read.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

using Hash = unsigned long long;

// A run of bytes. Its seed encodes what the bytes are (which tensor, which part, which type and
// layout).
struct MemorySpan {
  const void* data = nullptr;
  index_t bytes = 0;
  Hash seed = 0;
};

struct FingerprintParams {
  const MemorySpan* spans = nullptr;  // [count]
  Hash* hashes = nullptr;             // [count], written
  index_t count = 0;
};

// One step of the hash: a bijection of `state` for a given word and of `word` for a given state, so
// a single changed word always changes the hash. The rotation moves high bits (signs, exponents)
// down, and the multiplication spreads them.
TRANSNEXT_INLINE Hash mixed(Hash state, Hash word) {
  const Hash both = state ^ word;
  return (both << 29 | both >> 35) * 0x9FB21C651E98DF25ull;
}

namespace cpu {
void fingerprint(const FingerprintParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
