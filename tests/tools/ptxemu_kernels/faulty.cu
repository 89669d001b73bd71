// Deliberately wrong kernels, and some that look so.

KERNEL bad_race(const int* x, int* y) {
  __shared__ int s[128];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[127 - t];
}

KERNEL bad_race_warp(const int* x, int* y) {
  __shared__ int s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[31 - t];
}

KERNEL good_warp(const int* x, int* y) {
  __shared__ int s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  y[t] = s[31 - t];
}

KERNEL bad_race_half(const half* x, half* y) {
  __shared__ half s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[t ^ 33];
}

KERNEL bad_war(const int* x, int* y, int n) {
  __shared__ int s[64];
  int t = threadIdx.x;
  for (int k = 0; k < n; k++) {
    s[t] = x[t + k];
    __syncthreads();
    y[t] += s[63 - t];
  }
}

KERNEL bad_oob(int* y, int n) {
  y[threadIdx.x + n] = 1;
}

KERNEL bad_neg(const int* x, int* y) {
  y[threadIdx.x] = x[(int)threadIdx.x - 1];
}

KERNEL bad_soob(int* y, int n) {
  __shared__ int s[32];
  s[threadIdx.x + n] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL bad_align(const float* x, float* y) {
  float4 v = *(const float4*)(x + threadIdx.x);
  y[threadIdx.x] = v.x + v.w;
}

KERNEL bad_uninit(int* y) {
  __shared__ int s[64];
  if (threadIdx.x & 1) s[threadIdx.x] = 3;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

KERNEL bad_deadlock(int* y, int n) {
  if ((threadIdx.x >> 5) == 0) {
    while (n > 0) {
      __syncthreads();
      n--;
    }
  } else
    __shfl_sync(0xffffffff, n, 0);
  if (threadIdx.x == 40) {
    asm volatile("bar.sync 3, 64;");
  }
  y[threadIdx.x] = n;
}

KERNEL bad_blocks(int* y) {
  y[threadIdx.x] = blockIdx.x;
}

KERNEL bad_endless(int* y) {
  while (((volatile int*)y)[0] == 0);
}
