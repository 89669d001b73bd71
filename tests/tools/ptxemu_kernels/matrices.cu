// Matrix instructions.

// One warp: A (M x K) row-major, B column-major, given as its transpose (N x K), C row-major. Lane
// 4 g + q holds the registers of rows g and g + 8; a register takes the values of 32 bits.
template <class T>
__device__ void load_a(const T* A, u32 (&a)[4]) {
  int g = threadIdx.x >> 2, q = threadIdx.x & 3, values = 4 / sizeof(T), width = 8 * values;
  for (int r = 0; r < 4; r++)
    a[r] = *(const u32*)&A[(g + (r & 1) * 8) * width + q * values + (r >> 1) * width / 2];
}

template <class T>
__device__ void load_b(const T* B, u32 (&b)[2]) {
  int g = threadIdx.x >> 2, q = threadIdx.x & 3, values = 4 / sizeof(T), width = 8 * values;
  for (int r = 0; r < 2; r++) b[r] = *(const u32*)&B[g * width + q * values + r * width / 2];
}

// Where register r of an accumulator stands in the 16 x 8 result.
__device__ int result_index(int r) {
  return ((threadIdx.x >> 2) + (r >> 1) * 8) * 8 + (threadIdx.x & 3) * 2 + (r & 1);
}

__device__ void load_c(const float* C, float (&c)[4]) {
  for (int r = 0; r < 4; r++) c[r] = C[result_index(r)];
}

__device__ void store(const float (&c)[4], float* D) {
  for (int r = 0; r < 4; r++) D[result_index(r)] = c[r];
}

// c += a b with four registers of A and two of B; the accumulator's registers are "+f" or "+r".
#define MMA(SHAPE_AND_TYPES, REGISTER)                                          \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES                              \
               " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"            \
               : REGISTER(c[0]), REGISTER(c[1]), REGISTER(c[2]), REGISTER(c[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// D = A B + C in 16-bit operands.
#define MMA_K16(NAME, T, SHAPE_AND_TYPES)                          \
  KERNEL NAME(const T* A, const T* B, const float* Cc, float* D) { \
    u32 a[4], b[2];                                                \
    float c[4];                                                    \
    load_a(A, a), load_b(B, b), load_c(Cc, c);                     \
    MMA(SHAPE_AND_TYPES, "+f");                                    \
    store(c, D);                                                   \
  }
MMA_K16(mma_f16_k16, half, "m16n8k16.row.col.f32.f16.f16.f32")
MMA_K16(mma_bf16_k16, __nv_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")

KERNEL mma_f16_k8(const half* A, const half* B, const float* Cc, float* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[2], b;
  float c[4];
  for (int r = 0; r < 2; r++) a[r] = *(const u32*)&A[(g + r * 8) * 8 + q * 2];
  b = *(const u32*)&B[g * 8 + q * 2];
  load_c(Cc, c);
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
  store(c, D);
}

KERNEL mma_f16acc(const half* A, const half* B, const half* Cc, half* D) {
  u32 a[4], b[2], c[2];
  load_a(A, a), load_b(B, b);
  for (int r = 0; r < 2; r++) c[r] = *(const u32*)&Cc[result_index(2 * r)];
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3,%4,%5},{%6,%7},{%0,%1};"
      : "+r"(c[0]), "+r"(c[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 2; r++) *(u32*)&D[result_index(2 * r)] = c[r];
}

__device__ void round_to_tf32(u32& bits) {
  asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
}

KERNEL mma_tf32_k8(const float* A, const float* B, const float* Cc, float* D) {
  u32 a[4], b[2];
  float c[4];
  load_a(A, a), load_b(B, b), load_c(Cc, c);
  for (u32& bits : a) round_to_tf32(bits);
  for (u32& bits : b) round_to_tf32(bits);
  MMA("m16n8k8.row.col.f32.tf32.tf32.f32", "+f");
  store(c, D);
}

// Unrounded float32 bits: the hardware ignores the low 13.
KERNEL mma_tf32_raw(const u32* A, const u32* B, float* D) {
  u32 a[4], b[2];
  float c[4] = {0, 0, 0, 0};
  load_a(A, a), load_b(B, b);
  MMA("m16n8k8.row.col.f32.tf32.tf32.f32", "+f");
  store(c, D);
}

KERNEL mma_s8(const signed char* A, const signed char* B, int* D) {
  u32 a[4], b[2];
  int c[4] = {1, 2, 3, 4};
  load_a(A, a), load_b(B, b);
  MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");
  for (int r = 0; r < 4; r++) D[result_index(r)] = c[r] - (r + 1);
}

// D = A(16x16) * B(16x8, row-major) with ldmatrix for A and ldmatrix.trans for B
KERNEL ldmatrix_mma(const half* A, const half* B, float* D) {
  __shared__ __align__(16) half sa[16 * 24], sb[16 * 8];
  int l = threadIdx.x;
  for (int i = l; i < 256; i += 32) sa[(i / 16) * 24 + i % 16] = A[i];
  for (int i = l; i < 128; i += 32) sb[i] = B[i];
  __syncwarp();
  u32 a[4], b[2];
  float c[4] = {0, 0, 0, 0};
  u32 pa = (u32)__cvta_generic_to_shared(&sa[(l & 15) * 24 + (l >> 4) * 8]),
      pb = (u32)__cvta_generic_to_shared(&sb[(l & 15) * 8]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(pa));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
               : "=r"(b[0]), "=r"(b[1])
               : "r"(pb));
  MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");
  store(c, D);
}

KERNEL wmma_f16(const half* A, const half* B, float* D) {
  wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
  wmma::fill_fragment(c, 1.f);
  wmma::load_matrix_sync(a, A, 16);
  wmma::load_matrix_sync(b, B, 16);
  wmma::mma_sync(c, a, b, c);
  for (int i = 0; i < c.num_elements; i++) c.x[i] *= 2.f;
  wmma::store_matrix_sync(D, c, 16, wmma::mem_row_major);
}

KERNEL wmma_shared_bf16(const __nv_bfloat16* A, const __nv_bfloat16* B, float* D) {
  __shared__ __nv_bfloat16 s[512];
  __shared__ float o[256];
  for (int i = threadIdx.x; i < 256; i += 32) {
    s[i] = A[i];
    s[256 + i] = B[i];
  }
  __syncwarp();
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
  wmma::fill_fragment(c, 0.f);
  wmma::load_matrix_sync(a, s, 16);
  wmma::load_matrix_sync(b, s + 256, 16);
  wmma::mma_sync(c, a, b, c);
  wmma::store_matrix_sync(o, c, 16, wmma::mem_col_major);
  __syncwarp();
  for (int i = threadIdx.x; i < 256; i += 32) D[i] = o[i];
}

KERNEL wmma_tf32(const float* A, const float* B, float* D) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> c;
  wmma::fill_fragment(c, 0.f);
  wmma::load_matrix_sync(a, A, 8);
  wmma::load_matrix_sync(b, B, 16);
  for (int i = 0; i < a.num_elements; i++) a.x[i] = wmma::__float_to_tf32(a.x[i]);
  for (int i = 0; i < b.num_elements; i++) b.x[i] = wmma::__float_to_tf32(b.x[i]);
  wmma::mma_sync(c, a, b, c);
  wmma::store_matrix_sync(D, c, 16, wmma::mem_row_major);
}
