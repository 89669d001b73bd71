#include "cpu/runtime/memory.h"

#include <cstdlib>
#include <new>

namespace transnext::cpu {
namespace {

constexpr std::size_t kAlignment = 64;

// Freed blocks that a thread keeps for its next kernel: the C library would return large ones to
// the system, and each next use would start with a page fault per 4 KiB. A block stores its size in
// front; sizes are rounded up to a quarter of a power of two, so that similar shapes reuse the same
// blocks.
class BlockCache {
 public:
  BlockCache() = default;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache() {
    for (Block*& first : blocks_) {
      while (first != nullptr) {
        Block* block = first;
        first = block->next;
        std::free(block);
      }
    }
  }

  void* take(std::size_t bytes) {
    const int size_class = class_of(bytes + kAlignment);
    Block* block = blocks_[size_class];
    if (block != nullptr) {
      blocks_[size_class] = block->next;
      kept_bytes_ -= class_bytes(size_class);
    } else {
      void* memory = std::aligned_alloc(kAlignment, class_bytes(size_class));
      if (memory == nullptr) throw std::bad_alloc();
      block = static_cast<Block*>(memory);
      block->size_class = size_class;
    }
    return reinterpret_cast<char*>(block) + kAlignment;
  }

  void release(void* memory) {
    auto* block = reinterpret_cast<Block*>(static_cast<char*>(memory) - kAlignment);
    const std::size_t bytes = class_bytes(block->size_class);
    if (kept_bytes_ + bytes > kMostBytes) {
      std::free(block);
      return;
    }
    block->next = blocks_[block->size_class];
    blocks_[block->size_class] = block;
    kept_bytes_ += bytes;
  }

 private:
  struct Block {
    Block* next;
    int size_class;
  };

  static constexpr std::size_t kMostBytes = std::size_t{8} << 20;  // per thread
  static constexpr int kClasses = 4 * 58;

  // Class 4 e + s holds up to (4 + s) 2^(e+4) bytes, s = 0 .. 3.
  static std::size_t class_bytes(int size_class) {
    const std::size_t bytes = static_cast<std::size_t>(4 + size_class % 4) << (size_class / 4 + 4);
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  static int class_of(std::size_t bytes) {
    int size_class = 0;
    if (bytes > 64) {
      const int top = 63 - __builtin_clzll(bytes - 1);  // 2^top < bytes <= 2^(top+1)
      size_class = 4 * (top - 6) + static_cast<int>((bytes - 1) >> (top - 2)) - 4;
    }
    while (class_bytes(size_class) < bytes) ++size_class;
    return size_class;
  }

  Block* blocks_[kClasses] = {};
  std::size_t kept_bytes_ = 0;
};

[[maybe_unused]] thread_local BlockCache cache;

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
// Exact sizes and no reuse, so that the sanitizer sees every access beyond a block.
void* allocate_scratch(index_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, static_cast<std::size_t>(bytes)) != 0)
    throw std::bad_alloc();
  return memory;
}

void free_scratch(void* memory) noexcept {
  std::free(memory);
}
#else
void* allocate_scratch(index_t bytes) {
  return cache.take(static_cast<std::size_t>(bytes));
}

void free_scratch(void* memory) noexcept {
  cache.release(memory);
}
#endif

}  // namespace transnext::cpu
