// fingerprint: a 64-bit hash of memory, which tells whether weights have changed.
//
// What was derived from weights (packed products, position-bias tables) may be used again only while they
// hold the same bits. PyTorch's version counters do not see every write, so the bits themselves are looked
// at, at the speed that memory is read with.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

using Hash = unsigned long long;

// A run of bytes. Its seed says what the bytes are (which tensor, which part, which type and layout).
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

// One step of the hash: a bijection of `state` for a given word and of `word` for a given state, so a single
// word that differs always shows. The rotation carries high bits (signs, exponents) down, from where the
// product spreads them.
TRANSNEXT_INLINE Hash mixed(Hash state, Hash word) {
  const Hash both = state ^ word;
  return (both << 29 | both >> 35) * 0x9FB21C651E98DF25ull;
}

namespace cpu {
void fingerprint(const FingerprintParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
