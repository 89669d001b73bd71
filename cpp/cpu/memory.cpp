#include "cpu/memory.h"

#include <cstdlib>
#include <new>

namespace transnext::cpu {

void* allocate_scratch(index_t bytes) {
  constexpr std::size_t kAlignment = 64;
  const auto size = (static_cast<std::size_t>(bytes) + kAlignment) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void free_scratch(void* memory) noexcept {
  std::free(memory);
}

}  // namespace transnext::cpu
