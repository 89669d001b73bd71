// Integers of 32 and 64 bits.

#define O(e) o[(k++) * n + i] = (e)

KERNEL ints(const u32* a, const u32* b, const u32* c, u32* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  u32 x = a[i], y = b[i], z = c[i], t;
  int k = 0;
  int sx = x, sy = y;
  O(x + y);
  O(x - y);
  O(x * y);
  O(__umulhi(x, y));
  O((u32)__mulhi(sx, sy));
  O(x / (y | 1));
  O(x % (y | 1));
  O((u32)(sx / (sy | 1)));
  O((u32)(sx % (sy | 1)));
  O(__popc(x));
  O(__clz(x));
  O(__ffs(x));
  O(__brev(x));
  O(__byte_perm(x, y, z & 0x7777));
  O(__funnelshift_l(x, y, z));
  O(__funnelshift_r(x, y, z));
  O(__funnelshift_lc(x, y, z & 63));
  O(x >> (z & 31));
  O(x << (z & 31));
  O((u32)(sx >> (z & 31)));
  O((u32)min(sx, sy));
  O(max(x, y));
  O((u32)abs(sx));
  O(__dp4a(x, y, z));
  O((u32)__dp4a(sx, sy, (int)z));
  O(__sad(sx, sy, z));
  O(x / 10u);
  O((u32)(sx / 7));
  O(__vadd4(x, y));
  O(__vmaxs2(x, y));
  O(__usad(x, y, z));
  O((x & y) ^ (~z | x));
  asm("bfe.u32 %0,%1,%2,%3;" : "=r"(t) : "r"(x), "r"(z & 31), "r"((z >> 8) & 31));
  O(t);
  asm("bfe.s32 %0,%1,%2,%3;" : "=r"(t) : "r"(x), "r"(z & 31), "r"((z >> 8) & 31));
  O(t);
  asm("bfi.b32 %0,%1,%2,%3,%4;" : "=r"(t) : "r"(x), "r"(y), "r"(z & 31), "r"((z >> 8) & 31));
  O(t);
  asm("lop3.b32 %0,%1,%2,%3,0xD8;" : "=r"(t) : "r"(x), "r"(y), "r"(z));
  O(t);
  asm("{.reg .pred p; setp.lt.s32 p,%1,%2; selp.b32 %0,%1,%2,p;}" : "=r"(t) : "r"(x), "r"(y));
  O(t);
  asm("{add.cc.u32 %0,%1,%2; addc.u32 %0,%3,0;}" : "=&r"(t) : "r"(x), "r"(y), "r"(z));
  O(t);
  asm("bfind.u32 %0,%1;" : "=r"(t) : "r"(x));
  O(t);
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(t) : "r"(x), "r"(y), "r"(z & 0xffff));
  O(t);
  asm("mad24.lo.s32 %0,%1,%2,%3;" : "=r"(t) : "r"(x), "r"(y), "r"(z));
  O(t);
  asm("mul24.hi.u32 %0,%1,%2;" : "=r"(t) : "r"(x), "r"(y));
  O(t);
}

KERNEL ints64(const u64* a, const u64* b, u64* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  u64 x = a[i], y = b[i];
  long long sx = x, sy = y;
  int k = 0;
  O(x + y);
  O(x * y);
  O(x / (y | 1));
  O(x % (y | 1));
  O((u64)(sx / (sy | 1)));
  O((u64)(sx % (sy | 1)));
  O(__umul64hi(x, y));
  O((u64)__mul64hi(sx, sy));
  O((u64)__popcll(x));
  O((u64)__clzll(x));
  O(__brevll(x));
  O(x >> (y & 63));
  O((u64)(sx >> (y & 63)));
  O((u64)min(sx, sy));
  O((u64)(u32)x * (u32)y);
  O((u64)((long long)(int)x * (int)y));
  O((u64)(unsigned char)x + (signed char)y);
  O((u64)(short)x * (unsigned short)y);
}
