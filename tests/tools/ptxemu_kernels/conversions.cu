// Conversions, directed rounding, and the mathematical functions.

KERNEL cvt_half(const float* x, half* h, __nv_bfloat16* b, float* back, half2* h2,
                __nv_bfloat162* b2, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  h[i] = __float2half_rn(v);
  h[n + i] = __float2half_rz(v);
  h[2 * n + i] = __float2half_rd(v);
  h[3 * n + i] = __float2half_ru(v);
  b[i] = __float2bfloat16_rn(v);
  b[n + i] = __float2bfloat16_rz(v);
  b[2 * n + i] = __float2bfloat16_rd(v);
  b[3 * n + i] = __float2bfloat16_ru(v);
  back[i] = __half2float(h[i]);
  back[n + i] = __bfloat162float(b[i]);
  h2[i] = __floats2half2_rn(v, x[n - 1 - i]);
  b2[i] = __floats2bfloat162_rn(v, x[n - 1 - i]);
}

KERNEL cvt_int(const float* x, const double* d, int* o, u32* u, long long* l, float* f, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  double w = d[i];
  o[i] = __float2int_rn(v);
  o[n + i] = __float2int_rz(v);
  o[2 * n + i] = __float2int_rd(v);
  o[3 * n + i] = __float2int_ru(v);
  u[i] = __float2uint_rz(v);
  u[n + i] = __double2uint_rn(w);
  l[i] = __float2ll_rz(v);
  l[n + i] = __double2ll_rd(w);
  f[i] = __double2float_rn(w);
  f[n + i] = __double2float_rz(w);
  f[2 * n + i] = __double2float_rd(w);
  f[3 * n + i] = __double2float_ru(w);
  f[4 * n + i] = __ll2float_rn(l[n + i]);
  f[5 * n + i] = __int2float_rz(o[i]);
  f[6 * n + i] = rintf(v);
  f[7 * n + i] = floorf(v);
  f[8 * n + i] = ceilf(v);
  f[9 * n + i] = truncf(v);
  f[10 * n + i] = roundf(v);
}

KERNEL rounding(const float* a, const float* b, const float* c, float* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float x = a[i], y = b[i], z = c[i];
  o[i] = __fadd_rn(x, y);
  o[n + i] = __fadd_rz(x, y);
  o[2 * n + i] = __fadd_rd(x, y);
  o[3 * n + i] = __fadd_ru(x, y);
  o[4 * n + i] = __fmul_rz(x, y);
  o[5 * n + i] = __fmul_rd(x, y);
  o[6 * n + i] = __fmul_ru(x, y);
  o[7 * n + i] = __fmaf_rn(x, y, z);
  o[8 * n + i] = __fmaf_rz(x, y, z);
  o[9 * n + i] = __fmaf_rd(x, y, z);
  o[10 * n + i] = __fmaf_ru(x, y, z);
  o[11 * n + i] = __fdiv_rz(x, y);
  o[12 * n + i] = __fdiv_rd(x, y);
  o[13 * n + i] = __fdiv_ru(x, y);
  o[14 * n + i] = __fsqrt_rd(fabsf(x));
  o[15 * n + i] = __fsqrt_ru(fabsf(x));
  o[16 * n + i] = x / y;
  o[17 * n + i] = sqrtf(fabsf(x));
}

KERNEL mathf(const float* x, float* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i], p = fabsf(v) + 1e-3f;
  int k = 0;
#define O(e) o[(k++) * n + i] = (e)
  O(expf(v));
  O(logf(p));
  O(sinf(v));
  O(cosf(v));
  O(tanhf(v));
  O(powf(p, 1.7f));
  O(rsqrtf(p));
  O(erff(v));
  O(exp2f(v));
  O(log2f(p));
  O(cbrtf(v));
  O(atan2f(v, p));
  O(sinf(v * 1e6f));
  O(log1pf(p));
  O(expm1f(v));
  O(hypotf(v, 2.f));
  O(__expf(v));
  O(__logf(p));
  O(__sinf(v));
  O(__fdividef(v, p));
  O(fmodf(v, .7f));
  O(ldexpf(v, 3));
  O(1.f / (1.f + __expf(-v)));
  O(erfcf(v));
  O(lgammaf(p));
  O(normcdff(v));
}

KERNEL mathd(const double* x, double* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double v = x[i], p = fabs(v) + 1e-3;
  int k = 0;
  O(exp(v));
  O(log(p));
  O(sin(v));
  O(cos(v));
  O(tanh(v));
  O(pow(p, 1.7));
  O(rsqrt(p));
  O(erf(v));
  O(v / p);
  O(sqrt(p));
  O(fma(v, p, v));
  O(cbrt(v));
  O(sin(v * 1e6));
  O(1.0 / p);
}
