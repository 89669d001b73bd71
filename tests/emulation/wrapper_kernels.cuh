// Kernels of one wrapper each: the same source runs as PTX and in the emulation, and its results
// are compared with NumPy.
#pragma once

#include "cuda/kernels/common/async_copy.cuh"
#include "cuda/kernels/common/shared_memory.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext {

struct ProductParams {
  const unsigned short* a;  // [16, depth]
  const unsigned short* b;  // [depth, 8]
  float* d;                 // [16, 8], added to
  int depth;                // 8 or 16
};

// Operands by the fragment tables, one element at a time. One warp.
template <class T>
__global__ void product_by_fragments(ProductParams p) {
  const int row = threadIdx.x / 4;
  const int column = threadIdx.x % 4 * 2;
  const auto a = [&](int r, int c) {
    return p.a[r * p.depth + c] | static_cast<unsigned>(p.a[r * p.depth + c + 1]) << 16;
  };
  const auto b = [&](int r, int c) {
    return p.b[r * 8 + c] | static_cast<unsigned>(p.b[(r + 1) * 8 + c]) << 16;
  };
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(row + i / 2 * 8) * 8 + column + i % 2];
  if (p.depth == 8) {
    device::mma_m16n8k8(d, {a(row, column), a(row + 8, column)}, {b(column, row)}, T{});
  } else {
    device::mma_m16n8k16(
        d, {a(row, column), a(row + 8, column), a(row, column + 8), a(row + 8, column + 8)},
        {b(column, row), b(column + 8, row)}, T{});
  }
  for (int i = 0; i < 4; ++i) p.d[(row + i / 2 * 8) * 8 + column + i % 2] = d[i];
}

// Depth 16, the operands through shared memory and ldmatrix. One warp, 768 shared bytes.
template <class T>
__global__ void product_by_ldmatrix(ProductParams p) {
  unsigned short* a = device::dynamic_shared<unsigned short>();  // [16, 16]
  unsigned short* b = a + 16 * 16;                               // [16, 8]
  const int lane = threadIdx.x;
  device::copy_async_16(a + lane * 8, p.a + lane * 8, true);
  device::commit_copies();
  device::copy_async_8(b + lane * 4, p.b + lane * 4, true);
  device::commit_copies();
  device::wait_copies<0>();
  __syncthreads();
  unsigned a_registers[4];
  unsigned b_registers[2];
  device::ldmatrix_x4(a_registers, a + (lane % 16) * 16 + lane / 16 * 8);
  device::ldmatrix_x2_trans(b_registers, b + lane % 16 * 8);
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  device::mma_m16n8k16(d, a_registers, b_registers, T{});
  for (int i = 0; i < 4; ++i) p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

struct TensorFloatParams {
  const float* a;  // [16, 8]
  const float* b;  // [8, 8], by depth and column
  float* d;        // [16, 8], added to
  int rounded;     // operands to TF32 before: else their lower bits are left to the product
};

__device__ inline unsigned tensor_float_operand(float x, int rounded) {
  return rounded != 0 ? device::round_to_tensor_float(x) : float_to_bits(x);
}

// Operands by the fragment tables. One warp.
__global__ void tensor_float_product_by_fragments(TensorFloatParams p) {
  const int row = threadIdx.x / 4;
  const int column = threadIdx.x % 4;
  const auto a = [&](int r, int c) { return tensor_float_operand(p.a[r * 8 + c], p.rounded); };
  const auto b = [&](int r, int c) { return tensor_float_operand(p.b[r * 8 + c], p.rounded); };
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(row + i / 2 * 8) * 8 + 2 * column + i % 2];
  device::mma_m16n8k8(
      d, {a(row, column), a(row + 8, column), a(row, column + 4), a(row + 8, column + 4)},
      {b(column, row), b(column + 4, row)}, TensorFloat32{});
  for (int i = 0; i < 4; ++i) p.d[(row + i / 2 * 8) * 8 + 2 * column + i % 2] = d[i];
}

// The same with rounded operands through shared memory and ldmatrix, b by column and depth there. One
// warp, 768 shared bytes.
__global__ void tensor_float_product_by_ldmatrix(TensorFloatParams p) {
  float* a = device::dynamic_shared<float>();  // [16, 8]
  float* b = a + 16 * 8;                       // [8 columns, 8]
  const int lane = threadIdx.x;
  for (int i = lane; i < 16 * 8; i += 32)
    a[i] = bits_to_float(tensor_float_operand(p.a[i], p.rounded));
  for (int i = lane; i < 8 * 8; i += 32)
    b[i % 8 * 8 + i / 8] = bits_to_float(tensor_float_operand(p.b[i], p.rounded));
  __syncthreads();
  unsigned a_registers[4];
  unsigned b_registers[2];
  device::ldmatrix_x4(a_registers, a + lane % 16 * 8 + lane / 16 * 4);
  device::ldmatrix_x2(b_registers, b + lane % 8 * 8 + lane / 8 % 2 * 4);
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  device::mma_m16n8k8(d, a_registers, b_registers, TensorFloat32{});
  for (int i = 0; i < 4; ++i) p.d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

struct RoundingParams {
  const float* in;
  unsigned* out;
  int size;
};

// One block of any size.
__global__ void round_to_tensor_floats(RoundingParams p) {
  for (int i = threadIdx.x; i < p.size; i += blockDim.x)
    p.out[i] = device::round_to_tensor_float(p.in[i]);
}

struct MatrixParams {
  const unsigned short* in;  // [32, 8]: four matrices
  unsigned* out;             // [32 lanes, 14]: x1, x2, x4, then the same transposed
};

__device__ inline void put_matrices(unsigned* out, const unsigned (&one)[1],
                                    const unsigned (&two)[2], const unsigned (&four)[4]) {
  out[0] = one[0];
  for (int i = 0; i < 2; ++i) out[1 + i] = two[i];
  for (int i = 0; i < 4; ++i) out[3 + i] = four[i];
}

__global__ void load_matrices(MatrixParams p) {
  __shared__ __align__(16) unsigned short rows[32 * 8];
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = p.in[lane * 8 + i];
  __syncthreads();
  unsigned one[1], two[2], four[4];
  unsigned* out = p.out + lane * 14;
  device::ldmatrix_x1(one, rows + lane % 8 * 8);
  device::ldmatrix_x2(two, rows + lane % 16 * 8);
  device::ldmatrix_x4(four, rows + lane * 8);
  put_matrices(out, one, two, four);
  device::ldmatrix_x1_trans(one, rows + lane % 8 * 8);
  device::ldmatrix_x2_trans(two, rows + lane % 16 * 8);
  device::ldmatrix_x4_trans(four, rows + lane * 8);
  put_matrices(out + 7, one, two, four);
}

struct CopyParams {
  const float* in;  // [threads, 7] as 4 + 2 + 1, each part contiguous over threads
  float* out;       // [threads, 7]
  int valid;        // threads below it copy, the others get zeros
};

// Three groups, each waited for in turn. Up to 64 threads.
__global__ void copy_in_groups(CopyParams p) {
  __shared__ __align__(16) float fours[64 * 4];
  __shared__ __align__(16) float twos[64 * 2];
  __shared__ float ones[64];
  const int thread = threadIdx.x;
  const int threads = blockDim.x;
  const bool valid = thread < p.valid;
  device::copy_async_16(fours + thread * 4, p.in + thread * 4, valid);
  device::commit_copies();
  device::copy_async_8(twos + thread * 2, p.in + threads * 4 + thread * 2, valid);
  device::commit_copies();
  device::copy_async_4(ones + thread, p.in + threads * 6 + thread, valid);
  device::commit_copies();
  const int other = threads - 1 - thread;
  device::wait_copies<2>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) p.out[other * 7 + i] = fours[other * 4 + i];
  device::wait_copies<1>();
  __syncthreads();
  for (int i = 0; i < 2; ++i) p.out[other * 7 + 4 + i] = twos[other * 2 + i];
  device::wait_copies<0>();
  __syncthreads();
  p.out[other * 7 + 6] = ones[other];
}

}  // namespace transnext
