// Arithmetic in float16 and bfloat16, one value or two; one rounding each.
#pragma once

#include "float_handlers.h"

enum HOp : u8 { HADD, HSUB, HMUL, HMIN, HMAX, HFMA, HABS, HNEG, HEX2, HTANH };
static inline u16 flushH(u16 h, bool bf) {
  u16 em = bf ? 0x7f80 : 0x7c00;
  return (h & em) ? h : (u16)(h & 0x8000);
}
template <bool BF>
static inline u16 minmaxH(bool mx, u16 a, u16 b, bool nan) {
  float x = toF<BF>(a), y = toF<BF>(b);
  if (x != x || y != y) {
    if (nan || (x != x && y != y)) return 0x7fff;
    return x != x ? b : a;
  }
  if (x == y) return mx ? (a & b) : (a | b);
  return (mx ? x > y : x < y) ? a : b;
}
template <int OP, bool BF, int N>
static void h_half(Warp& w, const Inst& I, u32 m) {
  u16* d = RG<u16>(w, I.d);
  const u16 *a = RG<u16>(w, I.a), *b = RG<u16>(w, I.b), *c = RG<u16>(w, I.c);
  bool fz = I.flag & F_FTZ, sat = I.flag & F_SAT, relu = I.flag & F_RELU, nan = I.flag & F_NAN;
  EACH(for (int k = 0; k < N; k++) {
    int j = i * N + k;
    u16 x = a[j];
    u16 y = OP <= HFMA ? b[j] : 0;
    u16 z = OP == HFMA ? c[j] : 0;
    u16 r;
    if (fz && OP != HABS && OP != HNEG) {
      x = flushH(x, BF);
      y = flushH(y, BF);
      z = flushH(z, BF);
    }
    switch (OP) {
      case HADD:
        r = frF<BF>(toF<BF>(x) + toF<BF>(y));
        break;
      case HSUB:
        r = frF<BF>(toF<BF>(x) - toF<BF>(y));
        break;
      case HMUL:
        if (BF)
          r = d2b((double)b2f(x) * b2f(y), R_RN);
        else
          r = f2h(h2f(x) * h2f(y));
        break;
      case HMIN:
        r = minmaxH<BF>(false, x, y, nan);
        break;
      case HMAX:
        r = minmaxH<BF>(true, x, y, nan);
        break;
      case HFMA: {
        double s = sumOdd((double)toF<BF>(x) * (double)toF<BF>(y), (double)toF<BF>(z));
        r = BF ? d2b(s, R_RN) : d2h(s, R_RN);
        break;
      }
      case HABS:
        r = x & 0x7fff;
        break;
      case HNEG:
        r = x ^ 0x8000;
        break;
      case HEX2:
        r = BF ? d2b(std::exp2((double)b2f(x)), R_RN) : d2h(std::exp2((double)h2f(x)), R_RN);
        break;
      default:
        r = BF ? d2b(std::tanh((double)b2f(x)), R_RN) : d2h(std::tanh((double)h2f(x)), R_RN);
    }
    if (fz && OP < HABS) r = flushH(r, BF);
    if (sat) {
      float f = toF<BF>(r);
      r = frF<BF>(satf(f));
    }
    if (relu) {
      float f = toF<BF>(r);
      if (f != f)
        r = 0x7fff;
      else if (!(f > 0))
        r = 0;
    }
    d[j] = r;
  });
}
