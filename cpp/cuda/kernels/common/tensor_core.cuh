// A warp's matrix multiply-accumulates (MMA) on tensor cores, and the loads of their operands.
//
//   d[16 x 8] += a[16 x depth] b[depth x 8],  depth 8 or 16, a and b Half or BFloat16, d float;
//                                             depth 8 also of floats rounded to TF32
//
// Which lane holds what (PTX ISA, "Matrix fragments for mma.m16n8k8/k16"), with r = lane / 4 and
// c = 2 (lane % 4); a register holds two neighbours, the first one in its low half:
//
//   a[0]: (r, c), (r, c + 1)    a[1]: (r + 8, c ..)    a[2]: (r, c + 8 ..)    a[3]: (r + 8, c + 8 ..)
//   b[0]: (c, r), (c + 1, r)    b[1]: (c + 8 .., r)    so b is read along its depth
//   d[0], d[1]: (r, c), (r, c + 1)                     d[2], d[3]: (r + 8, c ..)
//
// ldmatrix_xn loads n 8 x 8 matrices of 16-bit elements: lane 8 i + j gives the address of row j of
// matrix i (16 bytes, aligned; the addresses of lanes 8 n and up are not used), and register i of a
// lane holds (r, c), (r, c + 1) of matrix i, with _trans (c, r), (c + 1, r). So four matrices of a
// row-major tile are an `a` of depth 16 in the order top left, bottom left, top right, bottom right;
// rows of a matrix stored [column][depth] are a `b` without _trans, of one stored [depth][column]
// with _trans.
//
// A TF32 is a float of whose mantissa the upper 10 bits count, one to a register. With c = lane % 4:
//
//   a[0]: (r, c)    a[1]: (r + 8, c)    a[2]: (r, c + 4)    a[3]: (r + 8, c + 4)
//   b[0]: (c, r)    b[1]: (c + 4, r)    d as above
//
// ldmatrix without _trans loads them too: a row of 8 elements of 16 bits is a row of 4 floats, and
// register i of a lane holds (r, c) of matrix i.
//
// All 32 lanes of a warp must call these together.
//
// Compute capability 7.5 only has the MMA of depth 8 on Half. There, depth 16 is two of them, and
// BFloat16 and TF32 gather their operands by shuffles and multiply in float: correct, not fast.
#pragma once

#include "cuda/kernels/common/shared_memory.cuh"
#include "cuda/kernels/common/storage.cuh"

#if defined(TRANSNEXT_EMULATION)
#include "emulation/tensor_core.h"
#endif

namespace transnext::device {

#if defined(TRANSNEXT_EMULATION)

template <class T>
inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[2], const unsigned (&b)[1], T) {
  emulation::mma<T>(d, a, b, 8);
}
template <class T>
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], T) {
  emulation::mma<T>(d, a, b, 16);
}
inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                        TensorFloat32) {
  emulation::mma_tensor_float(d, a, b);
}
inline unsigned round_to_tensor_float(float x) {
  return float_to_tensor_float(x);
}
inline void ldmatrix_x1(unsigned (&r)[1], const void* shared_row) {
  emulation::ldmatrix(r, 1, shared_row, false);
}
inline void ldmatrix_x2(unsigned (&r)[2], const void* shared_row) {
  emulation::ldmatrix(r, 2, shared_row, false);
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* shared_row) {
  emulation::ldmatrix(r, 4, shared_row, false);
}
inline void ldmatrix_x1_trans(unsigned (&r)[1], const void* shared_row) {
  emulation::ldmatrix(r, 1, shared_row, true);
}
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* shared_row) {
  emulation::ldmatrix(r, 2, shared_row, true);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* shared_row) {
  emulation::ldmatrix(r, 4, shared_row, true);
}

#else

__device__ inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[2], const unsigned (&b)[1],
                                   Half) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%7, %8, %9, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

__device__ inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[2], const unsigned (&b)[1],
                                   BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%7, %8, %9, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]));
}
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    Half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(d[0]), "f"(d[1]),
        "f"(d[2]), "f"(d[3]));
}
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(d[0]), "f"(d[1]),
        "f"(d[2]), "f"(d[3]));
}
__device__ inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                   TensorFloat32) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(d[0]), "f"(d[1]),
        "f"(d[2]), "f"(d[3]));
}
__device__ inline unsigned round_to_tensor_float(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}

#else  // compute capability 7.5

// The two elements of a register of BFloat16 as floats: a bfloat16 is the upper half of a float.
__device__ inline float lower_bfloat16(unsigned pair) {
  return bits_to_float(pair << 16);
}
__device__ inline float upper_bfloat16(unsigned pair) {
  return bits_to_float(pair & 0xffff0000u);
}

__device__ inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[2], const unsigned (&b)[1],
                                   BFloat16) {
  const int lane =
      static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {  // two steps of the depth, held by lanes = pair mod 4
    const unsigned top = __shfl_sync(0xffffffffu, a[0], lane / 4 * 4 + pair);
    const unsigned bottom = __shfl_sync(0xffffffffu, a[1], lane / 4 * 4 + pair);
    const unsigned left = __shfl_sync(0xffffffffu, b[0], lane % 4 * 8 + pair);
    const unsigned right = __shfl_sync(0xffffffffu, b[0], lane % 4 * 8 + 4 + pair);
    d[0] += lower_bfloat16(top) * lower_bfloat16(left);
    d[0] += upper_bfloat16(top) * upper_bfloat16(left);
    d[1] += lower_bfloat16(top) * lower_bfloat16(right);
    d[1] += upper_bfloat16(top) * upper_bfloat16(right);
    d[2] += lower_bfloat16(bottom) * lower_bfloat16(left);
    d[2] += upper_bfloat16(bottom) * upper_bfloat16(left);
    d[3] += lower_bfloat16(bottom) * lower_bfloat16(right);
    d[3] += upper_bfloat16(bottom) * upper_bfloat16(right);
  }
}

__device__ inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                   TensorFloat32) {
  const int lane =
      static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
  const auto from = [](unsigned part, int source) {
    return bits_to_float(__shfl_sync(0xffffffffu, part, source) & 0xffffe000u);
  };
#pragma unroll
  for (int step = 0; step < 8; ++step) {  // of the depth, held by lanes = step mod 4
    const int row = lane / 4 * 4 + step % 4;
    const int column = lane % 4 * 8 + step % 4;
    const float top = from(a[step / 4 * 2], row);
    const float bottom = from(a[step / 4 * 2 + 1], row);
    const float left = from(b[step / 4], column);
    const float right = from(b[step / 4], column + 4);
    d[0] += top * left;
    d[1] += top * right;
    d[2] += bottom * left;
    d[3] += bottom * right;
  }
}
__device__ inline unsigned round_to_tensor_float(float x) {
  return float_to_tensor_float(x);
}

template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    T tag) {
  mma_m16n8k8(d, {a[0], a[1]}, {b[0]}, tag);
  mma_m16n8k8(d, {a[2], a[3]}, {b[1]}, tag);
}

#endif

__device__ inline void ldmatrix_x1(unsigned (&r)[1], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x2(unsigned (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x4(unsigned (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x1_trans(unsigned (&r)[1], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

#endif

}  // namespace transnext::device
