#include "emulation/async_copy.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "emulation/block.h"
#include "emulation/shared_memory.h"

namespace transnext::emulation {
namespace {

struct Copy {
  void* target;
  int bytes;
  int group;
  unsigned char data[16];
};

struct Copies {
  std::vector<Copy> pending;  // in the order of their groups
  int open_group = 0;
};

std::vector<Copies> copies_of_thread(1024);
bool any_copies = false;

}  // namespace

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  const auto misaligned = [bytes](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) != 0;
  };
  if (!is_shared(shared, bytes)) fail("copy_async: the target is not in shared memory");
  if (misaligned(shared)) fail("copy_async: the target is not a multiple of %d bytes", bytes);
  if (valid && misaligned(global))
    fail("copy_async: the source is not a multiple of %d bytes", bytes);
  any_copies = true;
  Copies& own = copies_of_thread[thread_number()];
  Copy copy{shared, bytes, own.open_group, {}};
  if (valid) std::memcpy(copy.data, global, static_cast<std::size_t>(bytes));
  std::memset(shared, 0xff, static_cast<std::size_t>(bytes));
  own.pending.push_back(copy);
}

void commit_copies() {
  ++copies_of_thread[thread_number()].open_group;
}

void wait_copies(int groups_left) {
  Copies& own = copies_of_thread[thread_number()];
  std::size_t arrived = 0;
  while (arrived < own.pending.size() &&
         own.pending[arrived].group < own.open_group - groups_left) {
    const Copy& copy = own.pending[arrived++];
    std::memcpy(copy.target, copy.data, static_cast<std::size_t>(copy.bytes));
  }
  own.pending.erase(own.pending.begin(),
                    own.pending.begin() + static_cast<std::ptrdiff_t>(arrived));
}

void forget_copies() {
  if (!any_copies) return;
  for (Copies& copies : copies_of_thread) {
    copies.pending.clear();
    copies.open_group = 0;
  }
  any_copies = false;
}

void check_no_copies_pending(unsigned thread) {
  if (any_copies && !copies_of_thread[thread].pending.empty())
    fail("the thread exits with copies under way");
}

}  // namespace transnext::emulation
