// Kernels that do one thing that CUDA allows, or one that it does not: each of the second kind must
// be reported by the emulation.
#pragma once

#include "cuda/kernels/common/async_copy.cuh"
#include "cuda/kernels/common/shared_memory.cuh"

namespace transnext {

struct ArrayParams {
  float* out;
  const float* in;
  int size;
  int choice;
};

// out[i] = in reversed within the block, through dynamic shared memory.
__global__ void reverse(ArrayParams p) {
  float* values = device::dynamic_shared<float>();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  values[threadIdx.x] = i < p.size ? p.in[i] : 0.0f;
  __syncthreads();
  if (i < p.size) p.out[i] = values[blockDim.x - 1 - threadIdx.x];
}

// The same without the barrier.
__global__ void reverse_without_barrier(ArrayParams p) {
  float* values = device::dynamic_shared<float>();
  values[threadIdx.x] = p.in[threadIdx.x];
  p.out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

// Static shared memory must not keep what the block before left there.
__global__ void read_what_the_last_block_left(ArrayParams p) {
  __shared__ float values[32];
  p.out[blockIdx.x * 32 + threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = 1.0f;
}

__global__ void barrier_after_exit(ArrayParams p) {
  if (static_cast<int>(threadIdx.x) == p.choice) return;
  __syncthreads();
  p.out[threadIdx.x] = 1.0f;
}

__global__ void divergent_barrier(ArrayParams p) {
  if (static_cast<int>(threadIdx.x) < p.choice) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = 1.0f;
}

// One warp waits at the barrier, the other one for its own lanes, of which one is at the barrier.
__global__ void deadlock(ArrayParams p) {
  if (static_cast<int>(threadIdx.x) <= p.choice) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  p.out[threadIdx.x] = 1.0f;
}

__global__ void read_global(ArrayParams p) {
  p.out[threadIdx.x] = p.in[static_cast<int>(threadIdx.x) + p.choice];
}
__global__ void write_global(ArrayParams p) {
  p.out[static_cast<int>(threadIdx.x) + p.choice] = 1.0f;
}
__global__ void write_input(ArrayParams p) {
  const_cast<float*>(p.in)[threadIdx.x] = 1.0f;
}
__global__ void write_dynamic_shared(ArrayParams p) {
  float* values = device::dynamic_shared<float>();
  values[static_cast<int>(threadIdx.x) + p.choice] = 1.0f;
  p.out[threadIdx.x] = values[static_cast<int>(threadIdx.x) + p.choice];
}
__global__ void write_static_shared(ArrayParams p) {
  __shared__ float values[2][32];
  values[p.choice][threadIdx.x] = 1.0f;
  p.out[threadIdx.x] = values[p.choice][threadIdx.x];
}
__global__ void read_misaligned(ArrayParams p) {
  const float4 values = *reinterpret_cast<const float4*>(p.in + p.choice);
  p.out[threadIdx.x] = values.x + values.w;
}

// Every shuffle and vote, in an arrangement that a NumPy line gives too: see the test.
__global__ void shuffles(ArrayParams p) {
  const int lane = threadIdx.x;
  const float value = p.in[lane];
  float* out = p.out + lane * 10;
  out[0] = __shfl_sync(0xffffffffu, value, (lane + 5) % 32);
  out[1] = __shfl_xor_sync(0xffffffffu, value, 3);
  out[2] = __shfl_up_sync(0xffffffffu, value, 2);
  out[3] = __shfl_down_sync(0xffffffffu, value, 7, 8);
  out[4] = __shfl_sync(0xffffffffu, value, 9, 8);
  out[5] = static_cast<float>(__ballot_sync(0xffffffffu, lane % 16 == 3) == 0x00080008u);
  out[6] = static_cast<float>(__any_sync(0xffffffffu, lane == 31));
  out[7] = static_cast<float>(__all_sync(0xffffffffu, lane < 31));
  // Halves of the warp on their own.
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[8] = __shfl_xor_sync(mask, value, 15);
  out[9] = static_cast<float>(__syncthreads_count(lane % 3 == 0));
}

__global__ void shuffle_outside_its_mask(ArrayParams p) {
  p.out[threadIdx.x] = __shfl_sync(0x0000ffffu, p.in[threadIdx.x], 0);
}
__global__ void shuffle_from_outside_its_mask(ArrayParams p) {
  if (threadIdx.x < 16) p.out[threadIdx.x] = __shfl_sync(0x0000ffffu, p.in[threadIdx.x], 20);
}
__global__ void shuffle_with_exited_lanes(ArrayParams p) {
  if (static_cast<int>(threadIdx.x) >= p.choice) return;
  p.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, p.in[threadIdx.x], 1);
}
__global__ void shuffle_of_two_minds(ArrayParams p) {
  if (threadIdx.x % 2 == 0) {
    p.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, p.in[threadIdx.x], 1);
  } else {
    p.out[threadIdx.x] = __shfl_sync(0xffffffffu, p.in[threadIdx.x], 1);
  }
}

// out[0] is the sum of in.
__global__ void atomic_sum(ArrayParams p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.size) atomicAdd(p.out, p.in[i]);
}

// choice 0: waits as it should; 1: reads before the wait; 2: never waits; 3: a misaligned target.
__global__ void asynchronous_copy(ArrayParams p) {
  float* values = device::dynamic_shared<float>();
  float* target = values + threadIdx.x * 4 + (p.choice == 3 ? 1 : 0);
  device::copy_async_16(target, p.in + threadIdx.x * 4, true);
  device::commit_copies();
  if (p.choice == 0) device::wait_copies<0>();
  p.out[threadIdx.x] = target[3];
  if (p.choice != 2) device::wait_copies<0>();
}

// Threads see their own indices, in blocks of any shape.
__global__ void indices(ArrayParams p) {
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  __syncthreads();
  p.out[block * threads + thread] = static_cast<float>(
      threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y);
}

}  // namespace transnext
