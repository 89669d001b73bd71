// Arithmetic in float16 and bfloat16.

KERNEL half_ops(const half* a, const half* b, const half* c, half* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half x = a[i], y = b[i], z = c[i];
  o[i] = __hadd(x, y);
  o[n + i] = __hmul(x, y);
  o[2 * n + i] = __hfma(x, y, z);
  o[3 * n + i] = __hmax(x, y);
  o[4 * n + i] = __hsub(x, y);
  o[5 * n + i] = __hneg(x);
  o[6 * n + i] = __hmin(x, y);
  o[7 * n + i] = __habs(x);
}

KERNEL half2_ops(const half2* a, const half2* b, const half2* c, half2* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half2 x = a[i], y = b[i], z = c[i];
  o[i] = __hadd2(x, y);
  o[n + i] = __hmul2(x, y);
  o[2 * n + i] = __hfma2(x, y, z);
  o[3 * n + i] = __hmax2(x, y);
  o[4 * n + i] = __hsub2(x, y);
  o[5 * n + i] = __hneg2(x);
  o[6 * n + i] = __hmin2(x, y);
  o[7 * n + i] = __habs2(x);
}

KERNEL bf_ops(const __nv_bfloat16* a, const __nv_bfloat16* b, const __nv_bfloat16* c,
              __nv_bfloat16* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __nv_bfloat16 x = a[i], y = b[i], z = c[i];
  o[i] = __hadd(x, y);
  o[n + i] = __hmul(x, y);
  o[2 * n + i] = __hfma(x, y, z);
  o[3 * n + i] = __hmax(x, y);
  o[4 * n + i] = __hsub(x, y);
}

KERNEL bf2_ops(const __nv_bfloat162* a, const __nv_bfloat162* b, const __nv_bfloat162* c,
               __nv_bfloat162* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __nv_bfloat162 x = a[i], y = b[i], z = c[i];
  o[i] = __hadd2(x, y);
  o[n + i] = __hmul2(x, y);
  o[2 * n + i] = __hfma2(x, y, z);
  o[3 * n + i] = __hmax2(x, y);
  o[4 * n + i] = __hsub2(x, y);
}
