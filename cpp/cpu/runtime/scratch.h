// Temporary memory of a kernel, aligned for its vectors.
#pragma once

#include "cpu/runtime/memory.h"
#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

// A stride of an odd number of cache lines for rows of `elements`, so that the rows that a tile of a
// product reads side by side do not compete for cache sets.
template <class E>
constexpr index_t odd_lines(index_t elements) {
  constexpr index_t kLine = 64 / static_cast<index_t>(sizeof(E));
  return (round_up(elements, kLine) / kLine | 1) * kLine;
}

template <class E>
class Scratch {
 public:
  // Uninitialised.
  explicit Scratch(index_t count)
      : data_(static_cast<E*>(allocate_scratch(count * static_cast<index_t>(sizeof(E))))),
        count_(count) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free_scratch(data_); }

  void zero() {
    __builtin_memset(static_cast<void*>(data_), 0, static_cast<unsigned long>(count_) * sizeof(E));
  }
  E* data() { return data_; }
  const E* data() const { return data_; }
  index_t size() const { return count_; }
  E& operator[](index_t i) { return data_[i]; }
  const E& operator[](index_t i) const { return data_[i]; }

 private:
  E* data_;
  index_t count_;
};

TRANSNEXT_END_LEVEL
