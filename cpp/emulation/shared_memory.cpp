#include "emulation/shared_memory.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <link.h>

#include <sys/mman.h>

namespace transnext::emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kRegion = (kMostSharedBytes + kPage - 1) / kPage * kPage;
// Kernels may miss by a lot: nothing else is mapped this close to the region.
constexpr std::size_t kGuard = 1024 * 1024;

struct Range {
  unsigned char* begin = nullptr;
  std::size_t bytes = 0;

  bool contains(const void* pointer, std::size_t count) const {
    const auto* p = static_cast<const unsigned char*>(pointer);
    return begin != nullptr && p >= begin && count <= bytes && p <= begin + bytes - count;
  }
};

Range dynamic;

unsigned char* region() {
  static unsigned char* const base = [] {
    void* memory = mmap(nullptr, kRegion + 2 * kGuard, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    return static_cast<unsigned char*>(memory) + kGuard;
  }();
  return base;
}

// Forces the thread-local block to exist, whatever the kernels declare, and locates it.
thread_local unsigned char anchor[16];

// The thread-local block of this library in this thread: at the same distance from the anchor in
// every thread.
Range static_arrays() {
  struct Extent {
    std::ptrdiff_t before_anchor = 0;
    std::size_t bytes = 0;
  };
  static const Extent extent = [] {
    Extent found;
    anchor[0] = 1;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* result) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            if (info->dlpi_phdr[i].p_type != PT_TLS || info->dlpi_tls_data == nullptr) continue;
            const Range block{static_cast<unsigned char*>(info->dlpi_tls_data),
                              info->dlpi_phdr[i].p_memsz};
            if (block.contains(anchor, sizeof anchor))
              *static_cast<Extent*>(result) = {anchor - block.begin, block.bytes};
          }
          return 0;
        },
        &found);
    if (found.bytes == 0) std::abort();
    return found;
  }();
  return {anchor - extent.before_anchor, extent.bytes};
}

}  // namespace

void* dynamic_shared() {
  return dynamic.begin;
}

void place_shared_memory(unsigned bytes, bool against_end) {
  // Only the pages of the region that belong to the block can be accessed.
  const std::size_t pages = (bytes + kPage - 1) / kPage * kPage;
  mprotect(region(), kRegion, PROT_NONE);
  if (pages > 0) mprotect(region(), pages, PROT_READ | PROT_WRITE);
  const std::size_t offset = against_end ? (pages - bytes) / 16 * 16 : 0;
  dynamic = {region() + offset, bytes};
}

void poison_shared_memory() {
  const std::size_t pages = (dynamic.bytes + kPage - 1) / kPage * kPage;
  std::memset(region(), 0xff, pages);
  const Range arrays = static_arrays();
  std::memset(arrays.begin, 0xff, arrays.bytes);
}

bool is_shared(const void* pointer, int bytes) {
  const auto count = static_cast<std::size_t>(bytes);
  return dynamic.contains(pointer, count) || static_arrays().contains(pointer, count);
}

const char* describe_shared_fault(const void* address) {
  const auto* p = static_cast<const unsigned char*>(address);
  const bool near = p >= region() - kGuard && p < region() + kRegion + kGuard;
  return near ? "dynamic shared memory" : nullptr;
}

}  // namespace transnext::emulation
