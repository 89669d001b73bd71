// Control flow, collectives, calls, and how arguments and variables are passed.

KERNEL divergent(const int* x, int* y,
                 int n) {  // Collatz steps: loops of different length, early return
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], s = 0;
  if (v < 1) {
    y[i] = -1;
    return;
  }
  while (v != 1) {
    if (v & 1)
      v = 3 * v + 1;
    else
      v >>= 1;
    if (++s > 500) break;
  }
  y[i] = s;
}

KERNEL coll_branch(const int* x,
                   int* y) {  // collectives inside divergent branches with explicit masks
  int t = threadIdx.x, l = t & 31, v = x[t];
  u32 odd = __ballot_sync(~0u, v & 1);
  int r;
  if (v & 1) {
    r = __popc(odd);
    for (int k = 0; k < (v & 3); k++) r++;
    __syncwarp(odd);
    r += __reduce_add_sync(odd, v) + __shfl_sync(odd, v, __ffs(odd) - 1) * 1000;
  } else {
    u32 m = ~odd;
    r = -(int)__reduce_max_sync(m, (u32)v);
    r -= 1000 * __any_sync(m, v > 50) + 2000 * __all_sync(m, v > 3);
  }
  u32 mt = __match_any_sync(~0u, v);
  y[t] = r + 100000 * __popc(mt & ((2u << l) - 1));
}

KERNEL coll_groups(const float* x, float* y) {
  auto b = cg::this_thread_block();
  auto t8 = cg::tiled_partition<8>(b);
  float v = x[threadIdx.x];
  v = cg::reduce(t8, v, cg::plus<float>());
  if (threadIdx.x % 3 == 0) {
    auto c = cg::coalesced_threads();
    v += c.size() * 100 + c.shfl(v, 0) * 0 + c.thread_rank();
  }
  b.sync();
  y[threadIdx.x] = v + __syncthreads_count(threadIdx.x % 5 == 0) * 10000;
}

struct Conf {
  int n;
  float w[6];
  const float* src;
  long long stride[2];
  unsigned char flag;
};
KERNEL byvalue(Conf c, float* o, int sel) {
  int i = threadIdx.x;
  o[i] = c.src[i * c.stride[0]] * c.w[(i + sel) % 6] + c.n + c.flag + (float)c.stride[1];
}

template <int N, typename T>
__device__ T dot(const T* a, const T* b) {
  T s = 0;
#pragma unroll
  for (int i = 0; i < N; i++) s += a[i] * b[i];
  return s;
}

template <int N, typename T>
__global__ void tdot(const T* a, const T* b, T* o, long long rows) {
  for (long long r = (long long)blockIdx.x * blockDim.x + threadIdx.x; r < rows;
       r += (long long)gridDim.x * blockDim.x)
    o[r] = dot<N, T>(a + r * N, b + r * N);
}

template __global__ void tdot<7, float>(const float*, const float*, float*, long long);
template __global__ void tdot<13, double>(const double*, const double*, double*, long long);
__device__ __noinline__ int inner(const int* p, int n) {
  int b[6];
  for (int i = 0; i < 6; i++) b[i] = p[(i + n) % 6] * 2;
  int s = 0;
  for (int i = 0; i < 6; i++) s += b[(i * n) % 6] * (i + 1);
  return s;
}

__device__ __noinline__ int outer(int* q, int n) {
  int c[6];
  for (int i = 0; i < 6; i++) c[i] = q[(i * n) % 6] + i;
  int s = inner(c, n) + inner(q, n + 1);
  q[n % 6] += s;
  for (int i = 0; i < 6; i++) s += c[i];
  return s;
}

KERNEL stackframes(int* o, int k) {
  int a[6];
  for (int i = 0; i < 6; i++) a[i] = threadIdx.x * i + k;
  int s = 0;
  for (int i = 0; i < k; i++) s = s * 3 + outer(a, i + threadIdx.x % 3);
  for (int i = 0; i < 6; i++) s += a[i];
  o[threadIdx.x] = s;
}

__device__ __noinline__ int fib(int n) {
  return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

struct V3 {
  float x, y, z;
  double d;
};
__device__ __noinline__ V3 mk(float a, V3 b) {
  b.x += a;
  b.d *= a;
  return b;
}

KERNEL calls(int* o, float* f) {
  int t = threadIdx.x;
  o[t] = fib(t % 12);
  V3 v = {1, 2, 3, 4};
  for (int i = 0; i < t % 5; i++) v = mk(t * .5f, v);
  f[t] = v.x + v.y * 10 + (float)v.d;
}

__constant__ float cw[8] = {1, 2, 3, 4, 5, 6, 7, 8};
__device__ int counter[4];
__device__ const char* msg = "hi";
KERNEL globals(float* o) {
  int t = threadIdx.x;
  o[t] = cw[(t * 3) & 7];
  atomicAdd(&counter[t & 3], t);
  if (t == 0) printf("%s %d %.2f %lld\n", msg, 42, 1.5, 1ll << 40);
}

KERNEL spin(int* o) {
  __shared__ int lock, cnt;
  if (threadIdx.x == 0) {
    lock = 0;
    cnt = 0;
  }
  __syncthreads();
  bool done = false;
  while (!done) {
    if (atomicCAS(&lock, 0, 1) == 0) {
      cnt = ((volatile int*)&cnt)[0] + 1;
      __threadfence_block();
      atomicExch(&lock, 0);
      done = true;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *o = cnt;
}

KERNEL spin_its(int* o) {
  __shared__ volatile int flag;
  if (threadIdx.x == 0) flag = 0;
  __syncwarp();
  if (threadIdx.x == 0) {
    while (flag == 0);
    o[0] = flag;
  } else if (threadIdx.x == 31)
    flag = 5;
}

KERNEL named_bar(const int* x, int* y) {
  __shared__ int s[128];
  int t = threadIdx.x;
  if (t < 64) {
    s[t] = x[t] * 2;
    asm volatile("bar.sync 1, 64;" ::: "memory");
    y[t] = s[63 - t];
  } else {
    s[t] = x[t] * 3;
    asm volatile("bar.sync 2, 64;" ::: "memory");
    y[t] = s[64 + 127 - t];
  }
}

KERNEL early_exit_bar(const int* x, int* y, int n) {
  __shared__ int s[128];
  int t = threadIdx.x;
  s[t] = 0;
  if (t >= n) return;
  s[t] = x[t];
  __syncthreads();
  y[t] = s[n - 1 - t];
}

KERNEL shfl_all(const int* x, int* o) {
  int t = threadIdx.x, v = x[t];
  o[t] = __shfl_up_sync(~0u, v, 3);
  o[32 + t] = __shfl_down_sync(~0u, v, 5);
  o[64 + t] = __shfl_xor_sync(~0u, v, 9);
  o[96 + t] = __shfl_sync(~0u, v, t * 7 + 3);
  o[128 + t] = __shfl_up_sync(~0u, v, 2, 8);
  o[160 + t] = __shfl_down_sync(~0u, v, 3, 8);
  o[192 + t] = __shfl_sync(~0u, v, 5, 16);
  o[224 + t] = __shfl_xor_sync(~0u, v, 4, 4);
}

KERNEL localmem(const int* x, int* o, int n) {
  int a[40];
  for (int i = 0; i < n; i++) a[i] = x[(threadIdx.x + i) % 40] * i;
  int s = 0;
  for (int i = 0; i < n; i++) s += a[(a[i] & 31) % n];
  o[threadIdx.x] = s;
}
