// Loads, stores, shared memory, asynchronous copies and atomics.

KERNEL saxpy(float* y, const float* x, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

KERNEL saxpy4(float4* y, const float4* x, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    float4 u = x[i], v = y[i];
    v.x += a * u.x;
    v.y += a * u.y;
    v.z += a * u.z;
    v.w += a * u.w;
    y[i] = v;
  }
}

KERNEL matmul(const float* a, const float* b, float* c, int n) {
  __shared__ float sa[16][16], sb[16][16];
  int tx = threadIdx.x, ty = threadIdx.y, r = blockIdx.y * 16 + ty, q = blockIdx.x * 16 + tx;
  float s = 0;
  for (int k = 0; k < n; k += 16) {
    sa[ty][tx] = a[r * n + k + tx];
    sb[ty][tx] = b[(k + ty) * n + q];
    __syncthreads();
    for (int j = 0; j < 16; j++) s += sa[ty][j] * sb[j][tx];
    __syncthreads();
  }
  c[r * n + q] = s;
}

KERNEL transpose_conflict(const float* a, float* b) {
  __shared__ float t[32][32];
  int x = threadIdx.x, y = threadIdx.y;
  t[y][x] = a[y * 32 + x];
  __syncthreads();
  b[y * 32 + x] = t[x][y];
}

KERNEL reduce(const float* x, float* out, int n) {
  __shared__ float part[32];
  float s = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
  for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if (threadIdx.x == 0) atomicAdd(out, s);
  }
}

extern __shared__ float dyn[];
KERNEL softmax(const float* x, float* y, int n) {
  const float* r = x + (size_t)blockIdx.x * n;
  float m = -INFINITY;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    dyn[i] = r[i];
    m = fmaxf(m, r[i]);
  }
  __shared__ float red[8];
  for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
  if ((threadIdx.x & 31) == 0) red[threadIdx.x / 32] = m;
  __syncthreads();
  for (int i = 0; i < blockDim.x / 32; i++) m = fmaxf(m, red[i]);
  __syncthreads();
  float s = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    float e = __expf(dyn[i] - m);
    dyn[i] = e;
    s += e;
  }
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if ((threadIdx.x & 31) == 0) red[threadIdx.x / 32] = s;
  __syncthreads();
  s = 0;
  for (int i = 0; i < blockDim.x / 32; i++) s += red[i];
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[(size_t)blockIdx.x * n + i] = dyn[i] / s;
}

#define CPA(d, s, n)                                        \
  asm volatile("cp.async.ca.shared.global [%0], [%1], " #n  \
               ";" ::"r"((u32)__cvta_generic_to_shared(d)), \
               "l"(s))
KERNEL cpasync(const float* g, float* o,
               int tiles) {  // two buffers; output = per-thread sum over reversed tiles
  __shared__ __align__(16) float s[2][512];
  int t = threadIdx.x;
  float acc = 0;
  CPA(&s[0][t * 4], g + t * 4, 16);
  asm volatile("cp.async.commit_group;");
  for (int k = 0; k < tiles; k++) {
    if (k + 1 < tiles) {
      CPA(&s[(k + 1) & 1][t * 4], g + (size_t)(k + 1) * 512 + t * 4, 16);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    for (int j = 0; j < 4; j++) acc += s[k & 1][511 - t * 4 - j] * (k + 1);
    __syncthreads();
  }
  o[t] = acc;
}

KERNEL cpasync_zfill(const float* g, float* o, int n) {
  __shared__ __align__(16) float s[128];
  int t = threadIdx.x;
  int left = (n - t * 4) * 4;
  int sz = left >= 16 ? 16 : left > 0 ? left : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   (u32)__cvta_generic_to_shared(&s[t * 4])),
               "l"(g + (sz ? t * 4 : 0)), "r"(sz));
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  for (int j = 0; j < 4; j++) o[t + 32 * j] = s[t + 32 * j];
}

KERNEL cpasync_nowait(const float* g, float* o) {
  __shared__ __align__(16) float s[128];
  int t = threadIdx.x;
  CPA(&s[t * 4], g + t * 4, 16);
  asm volatile("cp.async.commit_group;");
  __syncthreads();
  o[t] = s[t];
}

KERNEL atomics(float* f, double* d, int* i, u32* u, u64* l, half2* h, __nv_bfloat162* b,
               const int* idx, int n) {
  __shared__ int hist[16];
  if (threadIdx.x < 16) hist[threadIdx.x] = 0;
  __syncthreads();
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t < n) {
    int k = idx[t];
    atomicAdd(&f[k], 1.5f);
    atomicAdd(&d[k], 0.25);
    atomicAdd(&i[k], t);
    atomicMax(&i[16 + k], t);
    atomicMin(&i[32 + k], t);
    atomicOr(&u[k], 1u << (t & 31));
    atomicXor(&u[16 + k], t);
    atomicAdd(&l[k], (u64)t << 30);
    atomicInc(&u[32 + k], 1000000);
    atomicAdd(&h[k], __floats2half2_rn(1, 2));
    atomicAdd(&b[k], __floats2bfloat162_rn(1, 2));
    atomicAdd(&hist[k], 1);
    int old = i[48], as;
    do {
      as = old;
      old = atomicCAS(&i[48], as, as + 3);
    } while (old != as);
    atomicExch(&i[49], 7);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&i[64 + threadIdx.x], hist[threadIdx.x]);
}
