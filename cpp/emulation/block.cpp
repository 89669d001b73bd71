#include "emulation/block.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "emulation/async_copy.h"
#include "emulation/fiber.h"
#include "emulation/shared_memory.h"

namespace transnext::emulation {

Index3 thread_index;
Index3 block_index;
Index3 block_size;
Index3 grid_size;

namespace {

constexpr unsigned kMostThreads = 1024;
constexpr std::size_t kStackBytes = 64 * 1024;  // including a guard page at the lowest address
constexpr std::size_t kPage = 4096;

enum class State { kReady, kAtBarrier, kInWarp, kExited };

struct Thread {
  Fiber fiber;
  Index3 index;
  State state;
  Site site;        // where the thread waits
  unsigned mask;    // for kInWarp: the lanes it waits with
  Combine combine;  // for kInWarp: the operation
};

struct Warp {
  Deposit in[kWarp];
  Deposit out[kWarp];
  unsigned present;  // lanes that the block has
  unsigned exited;
  unsigned waiting;  // lanes in state kInWarp
};

// The state of the running block.
struct Block {
  Fiber main;  // run_grid's own stack
  Thread threads[kMostThreads];
  Warp warps[kMostThreads / kWarp];
  unsigned ready[kMostThreads];
  unsigned ready_count;
  unsigned size;
  unsigned current;
  unsigned at_barrier;
  unsigned exited;
  unsigned votes;       // barrier_count of the threads that have arrived so far
  unsigned last_votes;  // and that of the previous barrier
  bool in_kernel = false;
  std::uint64_t random = 1;
  const Launch* launch;
  std::string error;
};

Block& block() {
  static Block only;
  return only;
}

unsigned char* stack_of(unsigned thread) {
  static unsigned char* const stacks = [] {
    void* memory = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    auto* base = static_cast<unsigned char*>(memory);
    for (unsigned i = 0; i < kMostThreads; ++i) mprotect(base + i * kStackBytes, kPage, PROT_NONE);
    return base;
  }();
  return stacks + thread * kStackBytes;
}

// xorshift64*, Marsaglia and Vigna.
std::uint64_t next_random(std::uint64_t& state) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (state * 0x2545f4914f6cdd1dull) >> 32;
}

void make_ready(Block& b, unsigned thread) {
  b.threads[thread].state = State::kReady;
  b.ready[b.ready_count++] = thread;
}

std::string describe_waiting(const Block& b) {
  std::string text;
  int listed = 0;
  for (unsigned i = 0; i < b.size && listed < 4; ++i) {
    const Thread& t = b.threads[i];
    if (t.state != State::kAtBarrier && t.state != State::kInWarp) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%sthread (%u, %u, %u) in %s at line %d", listed ? "; " : "",
                  t.index.x, t.index.y, t.index.z, t.site.operation, t.site.line);
    text += line;
    ++listed;
  }
  return text;
}

// Switches to another ready thread, or to run_grid if all have exited.
void switch_away(Block& b) {
  Fiber& from = b.threads[b.current].fiber;
  if (b.ready_count == 0) {
    if (b.exited < b.size) fail("deadlock: %s", describe_waiting(b).c_str());
    return switch_fiber(from, b.main);
  }
  const unsigned chosen = static_cast<unsigned>(next_random(b.random) % b.ready_count);
  const unsigned next = b.ready[chosen];
  b.ready[chosen] = b.ready[--b.ready_count];
  if (next == b.current) return;
  b.current = next;
  thread_index = b.threads[next].index;
  switch_fiber(from, b.threads[next].fiber);
}

void wait(Block& b, State state, const Site& site) {
  Thread& t = b.threads[b.current];
  t.state = state;
  t.site = site;
  switch_away(b);
}

// No thread may wait for one that has finished.
void exit_thread(Block& b) {
  const unsigned number = b.current;
  Warp& warp = b.warps[number / kWarp];
  const unsigned lane = number % kWarp;
  check_no_copies_pending(number);
  if (b.at_barrier > 0) fail("the thread exits while others wait: %s", describe_waiting(b).c_str());
  for (unsigned other = 0; other < kWarp; ++other) {
    if (!(warp.waiting >> other & 1)) continue;
    const Thread& t = b.threads[number / kWarp * kWarp + other];
    if (t.mask >> lane & 1) {
      fail("lane %u exits while lane %u waits for it in %s at line %d", lane, other,
           t.site.operation, t.site.line);
    }
  }
  warp.exited |= 1u << lane;
  b.threads[number].state = State::kExited;
  ++b.exited;
  switch_away(b);
}

void thread_entry() {
  Block& b = block();
  b.launch->kernel(b.launch->params);
  exit_thread(block());
  std::abort();  // nobody resumes it
}

void run_block(Block& b) {
  b.at_barrier = b.exited = b.votes = b.ready_count = 0;
  poison_shared_memory();
  forget_copies();
  for (unsigned i = 0; i < (b.size + kWarp - 1) / kWarp; ++i) {
    const unsigned lanes = b.size - i * kWarp;
    b.warps[i].present = lanes >= kWarp ? kAllLanes : (1u << lanes) - 1;
    b.warps[i].exited = b.warps[i].waiting = 0;
  }
  for (unsigned i = 0; i < b.size; ++i) {
    Thread& t = b.threads[i];
    t.index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
    prepare(t.fiber, stack_of(i) + kPage, kStackBytes - kPage, thread_entry);
    make_ready(b, i);
  }
  b.current = b.ready[--b.ready_count];
  thread_index = b.threads[b.current].index;
  b.in_kernel = true;
  switch_fiber(b.main, b.threads[b.current].fiber);
  b.in_kernel = false;
}

}  // namespace

unsigned thread_number() {
  return block().current;
}

bool running() {
  return block().in_kernel;
}

void fail(const char* format, ...) {
  Block& b = block();
  char message[1024];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  char position[256];
  std::snprintf(position, sizeof position,
                "%s, block (%u, %u, %u), thread (%u, %u, %u): ", b.launch->name, block_index.x,
                block_index.y, block_index.z, thread_index.x, thread_index.y, thread_index.z);
  b.error = std::string(position) + message;
  Fiber abandoned;
  switch_fiber(abandoned, b.main);
  std::abort();
}

void barrier(const Site& site) {
  barrier_count(site, 0);
}

unsigned barrier_count(const Site& site, int value) {
  Block& b = block();
  if (b.exited > 0)
    fail("%s at line %d: a thread of the block has exited", site.operation, site.line);
  if (b.at_barrier > 0) {
    for (unsigned i = 0; i < b.size; ++i) {
      const Thread& t = b.threads[i];
      if (t.state != State::kAtBarrier) continue;
      if (t.site.line == site.line && std::strcmp(t.site.operation, site.operation) == 0) break;
      fail("divergent barrier: %s at line %d, but %s", site.operation, site.line,
           describe_waiting(b).c_str());
    }
  }
  b.votes += value != 0;
  if (++b.at_barrier < b.size) {
    wait(b, State::kAtBarrier, site);
  } else {
    b.last_votes = b.votes;
    b.votes = b.at_barrier = 0;
    for (unsigned i = 0; i < b.size; ++i)
      if (i != b.current) make_ready(b, i);
    // The last thread to arrive does not continue before the others.
    make_ready(b, b.current);
    switch_away(b);
  }
  return b.last_votes;
}

void warp_operation(const Site& site, unsigned mask, Combine combine, const void* in, int in_bytes,
                    void* out, int out_bytes) {
  Block& b = block();
  const unsigned lane = b.current % kWarp;
  const unsigned first = b.current - lane;
  Warp& warp = b.warps[b.current / kWarp];
  if (!(mask >> lane & 1))
    fail("%s at line %d: lane %u is not in its mask %#x", site.operation, site.line, lane, mask);
  if (mask & ~warp.present)
    fail("%s at line %d: the mask %#x names lanes that the block does not have", site.operation,
         site.line, mask);
  if (mask & warp.exited)
    fail("%s at line %d: the mask %#x names lanes that have exited", site.operation, site.line,
         mask);
  std::memcpy(warp.in[lane].bytes, in, static_cast<std::size_t>(in_bytes));
  Thread& self = b.threads[b.current];
  self.mask = mask;
  self.combine = combine;
  self.site = site;
  warp.waiting |= 1u << lane;
  bool complete = (warp.waiting & mask) == mask;
  if (complete) {
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const unsigned other_lane = static_cast<unsigned>(__builtin_ctz(rest));
      const Thread& other = b.threads[first + other_lane];
      if (other.mask != mask) {
        complete = false;  // it is in another operation and may still arrive
        break;
      }
      if (other.combine != combine || other.site.line != site.line) {
        fail("%s at line %d: lane %u of the mask %#x is in %s at line %d", site.operation,
             site.line, other_lane, mask, other.site.operation, other.site.line);
      }
    }
  }
  if (complete) {
    combine(warp.in, warp.out, mask);
    warp.waiting &= ~mask;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const unsigned other = first + static_cast<unsigned>(__builtin_ctz(rest));
      if (other != b.current) make_ready(b, other);
    }
    make_ready(b, b.current);
    switch_away(b);
  } else {
    wait(b, State::kInWarp, site);
  }
  std::memcpy(out, warp.out[lane].bytes, static_cast<std::size_t>(out_bytes));
}

const char* run_grid(const Launch& launch, std::uint64_t seed) {
  Block& b = block();
  b.launch = &launch;
  b.error.clear();
  block_size = launch.block;
  grid_size = launch.grid;
  block_index = thread_index = {};
  const std::uint64_t size = std::uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  if (size == 0 || size > kMostThreads) {
    b.error = std::string(launch.name) + ": a block of " + std::to_string(size) + " threads";
    return b.error.c_str();
  }
  b.size = static_cast<unsigned>(size);
  b.random = seed * 0x9e3779b97f4a7c15ull | 1;
  for (int i = 0; i < 4; ++i) next_random(b.random);

  std::vector<std::uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t i = blocks; i > 1; --i)
    std::swap(order[i - 1], order[next_random(b.random) % i]);
  place_shared_memory(launch.shared_bytes, next_random(b.random) % 2 == 0);
  for (const std::uint32_t number : order) {
    block_index = {number % grid_size.x, number / grid_size.x % grid_size.y,
                   number / grid_size.x / grid_size.y};
    run_block(b);
    if (!b.error.empty()) return b.error.c_str();
  }
  return nullptr;
}

}  // namespace transnext::emulation
