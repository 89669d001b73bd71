// The running block: its threads as fibers, its barrier, and the operations of its warps.
//
// One block runs at a time, on one thread of the process. A thread runs until it waits; the next
// ready thread is drawn at random from the launch's seed, as is the order of the blocks, so no
// kernel can rely on an order that CUDA does not guarantee.
#pragma once

#include <cstdint>

namespace transnext::emulation {

struct Index3 {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};

// CUDA's threadIdx, blockIdx, blockDim and gridDim of the running thread.
extern Index3 thread_index;
extern Index3 block_index;
extern Index3 block_size;
extern Index3 grid_size;

// The source location that waits: all threads must wait at the same one.
struct Site {
  const char* operation;
  int line;
};

// __syncthreads: returns once all threads of the block have reached the same site. It is an error
// if a thread has exited or waits elsewhere.
void barrier(const Site& site);
// Returns the number of threads whose value was not 0 at the barrier just passed.
unsigned barrier_count(const Site& site, int value);

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kDepositBytes = 64;

struct Deposit {
  alignas(16) unsigned char bytes[kDepositBytes];
};

// Computes the results of all lanes of the mask from their deposits.
using Combine = void (*)(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask);

// An operation of the lanes in the mask: all of them, and no others, must reach the same site with
// the same mask. The last one combines.
void warp_operation(const Site& site, unsigned mask, Combine combine, const void* in, int in_bytes,
                    void* out, int out_bytes);

// The running thread's index in its block, and storage for its pending copies.
unsigned thread_number();

// Aborts the launch with this error, to which it adds kernel, block and thread. Does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Whether a kernel's thread is running.
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
