// Conversions between float formats, and arithmetic with directed rounding.
#pragma once

#include <cfenv>

#include "memory.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

// rounds a double (plus a sign-only remainder `err` of the exact value) to a format with `mant` fraction bits
static u32 narrow(double v, int mant, int emin, int emax, int rnd) {
  u64 b = bitcast<u64>(v);
  u32 sign = (u32)(b >> 63);
  int ex = (int)((b >> 52) & 0x7ff);
  u64 fr = b & ((1ull << 52) - 1);
  int ebits = emax == 15 ? 5 : 8;
  u32 sbit = sign << (mant + ebits), inf = ((1u << ebits) - 1) << mant;
  if (ex == 0x7ff) return fr ? ((1u << (mant + ebits)) - 1) : (sbit | inf);
  if (ex == 0) return sbit | ((fr && ((rnd == R_RP && !sign) || (rnd == R_RM && sign))) ? 1u : 0u);
  int e = ex - 1023;
  u64 m = (1ull << 52) | fr;
  int sh = 52 - mant;
  if (e < emin) sh += emin - e;
  if (sh > 60) sh = 60;
  u64 q = m >> sh, rem = m & ((1ull << sh) - 1), half = 1ull << (sh - 1);
  bool inc = false;
  switch (rnd) {
    case R_RN:
      inc = rem > half || (rem == half && (q & 1));
      break;
    case R_RNA:
      inc = rem >= half;
      break;
    case R_RM:
      inc = sign && rem;
      break;
    case R_RP:
      inc = !sign && rem;
      break;
    default:
      break;
  }
  q += inc;
  u64 r = e >= emin ? ((u64)(e - emin + 1) << mant) + (q - (1ull << mant)) : q;
  if (r >= inf) {
    bool toInf = rnd == R_RN || rnd == R_RNA || (rnd == R_RM && sign) || (rnd == R_RP && !sign);
    r = toInf ? inf : inf - 1;
  }
  return sbit | (u32)r;
}
static inline float h2f(u16 h) {
#ifdef __F16C__
  return _cvtsh_ss(h);
#else
  u32 s = (u32)(h >> 15) << 31, e = (h >> 10) & 31, f = h & 0x3ff;
  if (e == 31) return bitcast<float>(s | 0x7f800000u | (f << 13));
  if (e) return bitcast<float>(s | ((e + 112) << 23) | (f << 13));
  float v = (float)f * 5.9604644775390625e-8f;
  return s ? -v : v;
#endif
}
static inline u16 f2h(float f) {
#ifdef __F16C__
  if (f != f) return 0x7fff;
  return (u16)_cvtss_sh(f, 0);
#else
  return (u16)narrow(f, 10, -14, 15, R_RN);
#endif
}
static inline float b2f(u16 h) {
  return bitcast<float>((u32)h << 16);
}
static inline u16 f2b(float f) {
  u32 b = bitcast<u32>(f);
  if (f != f) return 0x7fff;
  return (u16)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
static inline u16 d2h(double d, int r) {
  return (u16)narrow(d, 10, -14, 15, r);
}
static inline u16 d2b(double d, int r) {
  return (u16)narrow(d, 7, -126, 127, r);
}
template <bool BF>
static inline float toF(u16 h) {
  return BF ? b2f(h) : h2f(h);
}
template <bool BF>
static inline u16 frF(float f) {
  return BF ? f2b(f) : f2h(f);
}
static inline double sumOdd(double a,
                            double b) {  // a+b rounded to odd, so that one later rounding is exact
  double s = a + b;
  if (!(std::fabs(s) <= 1.7e308)) return s;
  double bb = s - a, err = (a - (s - bb)) + (b - bb);
  if (err != 0) {
    u64 u = bitcast<u64>(s);
    if (!(u & 1)) {
      bool away = (err > 0) == (s > 0);
      u = away ? u + 1 : u - 1;
      s = bitcast<double>(u);
    }
  }
  return s;
}
static inline float ftzf(float x) {
  u32 b = bitcast<u32>(x);
  return (b & 0x7f800000u) ? x : bitcast<float>(b & 0x80000000u);
}
static inline float satf(float x) {
  return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f;
}
static inline double satd(double x) {
  return x > 0. ? (x < 1. ? x : 1.) : 0.;
}
static inline float dirF(double s, double err, int rnd) {  // exact value is s+err
  float f = (float)s;
  double fd = f;
  int c = fd > s ? 1 : fd < s ? -1 : err < 0 ? 1 : err > 0 ? -1 : 0;
  if (!c || rnd == R_RN) return f;
  if (rnd == R_RM) return c > 0 ? nextafterf(f, -INFINITY) : f;
  if (rnd == R_RP) return c < 0 ? nextafterf(f, INFINITY) : f;
  bool neg = s < 0 || (s == 0 && err < 0);
  if (neg) return c < 0 ? nextafterf(f, INFINITY) : f;
  return c > 0 ? nextafterf(f, -INFINITY) : f;
}
static inline double twoErr(double a, double b, double s) {
  double bb = s - a;
  return (a - (s - bb)) + (b - bb);
}
static __attribute__((noinline)) double d64dir(int op, double a, double b, double c, int rnd) {
  static const int M[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  int old = fegetround();
  fesetround(M[rnd & 3]);
  volatile double x = a, y = b, z = c, r;
  switch (op) {
    case 0:
      r = x + y;
      break;
    case 1:
      r = x - y;
      break;
    case 2:
      r = x * y;
      break;
    case 3:
      r = std::fma(x, y, z);
      break;
    case 4:
      r = x / y;
      break;
    default:
      r = std::sqrt((double)x);
  }
  fesetround(old);
  return r;
}
