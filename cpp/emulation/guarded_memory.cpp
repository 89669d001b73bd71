#include "emulation/guarded_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

namespace transnext::emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kGuard = 256 * kPage;  // kernels may be off by more than a page
constexpr unsigned char kPoison = 0xff;

std::size_t alignment_of(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16;
}

}  // namespace

GuardedMemory::GuardedMemory(const TensorRange* ranges, int count, bool against_end) {
  std::vector<TensorRange> sorted(ranges, ranges + count);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const TensorRange& a, const TensorRange& b) { return a.begin < b.begin; });
  for (const TensorRange& range : sorted) {
    if (range.bytes == 0) continue;
    Region* last = regions_.empty() ? nullptr : &regions_.back();
    if (last != nullptr && range.begin < last->original + last->bytes) {
      last->name += std::string(", ") + range.name;
      last->bytes = std::max(last->bytes,
                             static_cast<std::size_t>(range.begin - last->original) + range.bytes);
      last->output |= range.output;
    } else {
      regions_.push_back({range.name, range.begin, range.bytes, range.output, nullptr, 0, nullptr});
    }
  }
  for (Region& region : regions_) {
    region.pages = (region.bytes + 15 + kPage - 1) / kPage * kPage;
    void* mapping = mmap(nullptr, region.pages + 2 * kGuard, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) std::abort();
    region.mapping = static_cast<unsigned char*>(mapping);
    unsigned char* begin = region.mapping + kGuard;
    mprotect(begin, region.pages, PROT_READ | PROT_WRITE);
    region.copy = begin + alignment_of(region.original);
    if (against_end) {
      region.copy = begin + region.pages - region.bytes;
      region.copy -= (alignment_of(region.copy) - alignment_of(region.original)) & 15;
    }
    std::memset(begin, kPoison, region.pages);
    std::memcpy(region.copy, region.original, region.bytes);
    if (!region.output) mprotect(begin, region.pages, PROT_READ);
  }
}

GuardedMemory::~GuardedMemory() {
  for (const Region& region : regions_) munmap(region.mapping, region.pages + 2 * kGuard);
}

void GuardedMemory::translate(std::vector<unsigned char>& params) const {
  for (std::size_t offset = 0; offset + 8 <= params.size(); offset += 8) {
    std::uint64_t word;
    std::memcpy(&word, params.data() + offset, 8);
    for (const Region& region : regions_) {
      const auto begin = reinterpret_cast<std::uint64_t>(region.original);
      if (word < begin || word >= begin + region.bytes) continue;
      word = reinterpret_cast<std::uint64_t>(region.copy) + (word - begin);
      std::memcpy(params.data() + offset, &word, 8);
      break;
    }
  }
}

std::string GuardedMemory::slack_error() const {
  for (const Region& region : regions_) {
    if (!region.output) continue;
    unsigned char* begin = region.mapping + kGuard;
    unsigned char* end = begin + region.pages;
    const auto poisoned = [](unsigned char byte) { return byte == kPoison; };
    if (!std::all_of(begin, region.copy, poisoned))
      return "a write before the start of " + region.name;
    if (!std::all_of(region.copy + region.bytes, end, poisoned))
      return "a write beyond the end of " + region.name;
  }
  return {};
}

void GuardedMemory::copy_back() const {
  for (const Region& region : regions_)
    if (region.output) std::memcpy(region.original, region.copy, region.bytes);
}

std::string GuardedMemory::describe(const void* address) const {
  const auto* p = static_cast<const unsigned char*>(address);
  for (const Region& region : regions_) {
    if (p < region.mapping || p >= region.mapping + region.pages + 2 * kGuard) continue;
    const std::string tensor = region.name + " (" + std::to_string(region.bytes) + " bytes)";
    if (p < region.copy) return std::to_string(region.copy - p) + " bytes before " + tensor;
    const std::ptrdiff_t offset = p - region.copy;
    if (p < region.copy + region.bytes)
      return "byte " + std::to_string(offset) + " of " + tensor + ", an input";
    return std::to_string(offset - static_cast<std::ptrdiff_t>(region.bytes)) +
           " bytes beyond the end of " + tensor;
  }
  return {};
}

}  // namespace transnext::emulation
