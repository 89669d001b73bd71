// The running block: its threads as fibers, its barrier, and the operations of its warps.
//
// One block runs at a time, on one thread of the process. A thread runs until it waits; which ready
// thread goes on then is drawn at random from the launch's seed, as is the order of the blocks, so
// that nothing can count on an order that CUDA does not promise.
#pragma once

#include <cstdint>

namespace transnext::emulation {

struct Index3 {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};

// What CUDA calls threadIdx, blockIdx, blockDim and gridDim, of the thread that runs.
extern Index3 thread_index;
extern Index3 block_index;
extern Index3 block_size;
extern Index3 grid_size;

// The place in the source that waits: all threads must wait at the same one.
struct Site {
  const char* operation;
  int line;
};

// __syncthreads: returns once all threads of the block have come to the same site. That a thread
// has exited, or waits elsewhere, is an error.
void barrier(const Site& site);
// Returns the number of threads whose value was not 0 in the barrier just passed.
unsigned barrier_count(const Site& site, int value);

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kDepositBytes = 64;

struct Deposit {
  alignas(16) unsigned char bytes[kDepositBytes];
};

// Makes the results of all lanes of the mask from what they brought.
using Combine = void (*)(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask);

// An operation of the lanes in the mask: all of them must come to the same site with the same mask,
// and no other may. The last one combines.
void warp_operation(const Site& site, unsigned mask, Combine combine, const void* in, int in_bytes,
                    void* out, int out_bytes);

// The running thread's number in its block, and a place to keep what it has under way.
unsigned thread_number();

// Ends the launch with this error, adding kernel, block and thread. Does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Whether a kernel's thread runs now.
bool running();

struct Launch {
  const char* name;
  void (*kernel)(const void* params);
  const void* params;
  Index3 grid;
  Index3 block;
  unsigned shared_bytes;
};

// Runs all blocks; returns nullptr or the error's text, valid until the next launch.
const char* run_grid(const Launch& launch, std::uint64_t seed);

}  // namespace transnext::emulation
