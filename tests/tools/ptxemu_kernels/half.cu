// Arithmetic in float16 and bfloat16.

// Element i of three arrays as x, y and z. The operations of both types go to the first n results
// each, those of float16 alone to the ones behind; their names end in 2 for pairs.
#define ELEMENTS(T)                              \
  int i = blockIdx.x * blockDim.x + threadIdx.x; \
  if (i >= n) return;                            \
  T x = a[i], y = b[i], z = c[i]
#define BOTH_TYPES(TWO)                \
  o[i] = __hadd##TWO(x, y);            \
  o[n + i] = __hmul##TWO(x, y);        \
  o[2 * n + i] = __hfma##TWO(x, y, z); \
  o[3 * n + i] = __hmax##TWO(x, y);    \
  o[4 * n + i] = __hsub##TWO(x, y)
#define FLOAT16_ALONE(TWO)          \
  o[5 * n + i] = __hneg##TWO(x);    \
  o[6 * n + i] = __hmin##TWO(x, y); \
  o[7 * n + i] = __habs##TWO(x)

KERNEL half_ops(const half* a, const half* b, const half* c, half* o, int n) {
  ELEMENTS(half);
  BOTH_TYPES();
  FLOAT16_ALONE();
}

KERNEL half2_ops(const half2* a, const half2* b, const half2* c, half2* o, int n) {
  ELEMENTS(half2);
  BOTH_TYPES(2);
  FLOAT16_ALONE(2);
}

KERNEL bf_ops(const __nv_bfloat16* a, const __nv_bfloat16* b, const __nv_bfloat16* c,
              __nv_bfloat16* o, int n) {
  ELEMENTS(__nv_bfloat16);
  BOTH_TYPES();
}

KERNEL bf2_ops(const __nv_bfloat162* a, const __nv_bfloat162* b, const __nv_bfloat162* c,
               __nv_bfloat162* o, int n) {
  ELEMENTS(__nv_bfloat162);
  BOTH_TYPES(2);
}
