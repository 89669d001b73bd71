// Matrix instructions.

// one warp, row-major A (MxK), column-major B given as B^T (N x K), C row-major
KERNEL mma_f16_k16(const half* A, const half* B, const float* Cc, float* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2];
  float c[4];
  for (int r = 0; r < 4; r++) a[r] = *(const u32*)&A[(g + (r & 1) * 8) * 16 + q * 2 + (r >> 1) * 8];
  for (int r = 0; r < 2; r++) b[r] = *(const u32*)&B[g * 16 + q * 2 + r * 8];
  for (int r = 0; r < 4; r++) c[r] = Cc[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)];
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
}

KERNEL mma_bf16_k16(const __nv_bfloat16* A, const __nv_bfloat16* B, const float* Cc, float* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2];
  float c[4];
  for (int r = 0; r < 4; r++) a[r] = *(const u32*)&A[(g + (r & 1) * 8) * 16 + q * 2 + (r >> 1) * 8];
  for (int r = 0; r < 2; r++) b[r] = *(const u32*)&B[g * 16 + q * 2 + r * 8];
  for (int r = 0; r < 4; r++) c[r] = Cc[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)];
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
}

KERNEL mma_f16_k8(const half* A, const half* B, const float* Cc, float* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[2], b;
  float c[4];
  for (int r = 0; r < 2; r++) a[r] = *(const u32*)&A[(g + r * 8) * 8 + q * 2];
  b = *(const u32*)&B[g * 8 + q * 2];
  for (int r = 0; r < 4; r++) c[r] = Cc[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)];
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
}

KERNEL mma_f16acc(const half* A, const half* B, const half* Cc, half* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2], c[2];
  for (int r = 0; r < 4; r++) a[r] = *(const u32*)&A[(g + (r & 1) * 8) * 16 + q * 2 + (r >> 1) * 8];
  for (int r = 0; r < 2; r++) {
    b[r] = *(const u32*)&B[g * 16 + q * 2 + r * 8];
    c[r] = *(const u32*)&Cc[(g + r * 8) * 8 + q * 2];
  }
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3,%4,%5},{%6,%7},{%0,%1};"
      : "+r"(c[0]), "+r"(c[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 2; r++) *(u32*)&D[(g + r * 8) * 8 + q * 2] = c[r];
}

KERNEL mma_tf32_k8(const float* A, const float* B, const float* Cc, float* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2];
  float c[4];
  for (int r = 0; r < 4; r++)
    asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(a[r]) : "f"(A[(g + (r & 1) * 8) * 8 + q + (r >> 1) * 4]));
  for (int r = 0; r < 2; r++)
    asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(b[r]) : "f"(B[g * 8 + q + r * 4]));
  for (int r = 0; r < 4; r++) c[r] = Cc[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)];
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
}

KERNEL mma_tf32_raw(const u32* A, const u32* B,
                    float* D) {  // unrounded f32 bits: the hardware ignores the low 13 bits
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2];
  float c[4] = {0, 0, 0, 0};
  for (int r = 0; r < 4; r++) a[r] = A[(g + (r & 1) * 8) * 8 + q + (r >> 1) * 4];
  for (int r = 0; r < 2; r++) b[r] = B[g * 8 + q + r * 4];
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
}

KERNEL mma_s8(const signed char* A, const signed char* B, int* D) {
  int l = threadIdx.x, g = l >> 2, q = l & 3;
  u32 a[4], b[2];
  int c[4] = {1, 2, 3, 4};
  for (int r = 0; r < 4; r++)
    a[r] = *(const u32*)&A[(g + (r & 1) * 8) * 32 + q * 4 + (r >> 1) * 16];
  for (int r = 0; r < 2; r++) b[r] = *(const u32*)&B[g * 32 + q * 4 + r * 16];
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r] - (r + 1);
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
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  int g = l >> 2, q = l & 3;
  for (int r = 0; r < 4; r++) D[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = c[r];
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
