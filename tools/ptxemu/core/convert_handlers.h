// Conversions between types, packing, and generic addresses.
#pragma once

#include "half_handlers.h"

static inline i64 rdInt(const u8* R, u32 off, int i, int rs, Ty t) {
  u64 v = 0;
  if (rs == 1 || rs == 2) v = ((const u16*)(R + off))[i];
  if (rs == 4) v = ((const u32*)(R + off))[i];
  if (rs == 8) v = ((const u64*)(R + off))[i];
  switch (t) {
    case T_U8:
    case T_B8:
      return (u8)v;
    case T_S8:
      return (i8)v;
    case T_U16:
    case T_B16:
      return (u16)v;
    case T_S16:
      return (i16)v;
    case T_U32:
    case T_B32:
      return (u32)v;
    case T_S32:
      return (i32)v;
    default:
      return (i64)v;
  }
}
static inline void wrInt(u8* R, u32 off, int i, int rs, u64 v) {
  switch (rs) {
    case 1:
    case 2:
      ((u16*)(R + off))[i] = (u16)v;
      break;
    case 4:
      ((u32*)(R + off))[i] = (u32)v;
      break;
    default:
      ((u64*)(R + off))[i] = v;
  }
}
template <class D, class S>
static void h_cvtq(Warp& w, const Inst& I, u32 m) {
  D* d = RG<D>(w, I.d);
  const S* a = RG<S>(w, I.a);
  LANES(d[i] = (D)a[i];);
}
static void h_cvth2f(Warp& w, const Inst& I, u32 m) {
  float* d = RG<float>(w, I.d);
  const u16* a = RG<u16>(w, I.a);
  LANES(d[i] = h2f(a[i]););
}
static void h_cvtf2h(Warp& w, const Inst& I, u32 m) {
  u16* d = RG<u16>(w, I.d);
  const float* a = RG<float>(w, I.a);
  LANES(d[i] = f2h(a[i]););
}
static void h_cvtb2f(Warp& w, const Inst& I, u32 m) {
  float* d = RG<float>(w, I.d);
  const u16* a = RG<u16>(w, I.a);
  LANES(d[i] = b2f(a[i]););
}
static inline double rintMode(double x, int rnd) {
  switch (rnd) {
    case R_RN:
      return std::nearbyint(x);
    case R_RZ:
      return std::trunc(x);
    case R_RM:
      return std::floor(x);
    case R_RP:
      return std::ceil(x);
    default:
      return std::trunc(x);
  }
}
static u16 toHalfR(double v, bool bf, int rnd, u32 flag) {
  u16 r = bf ? d2b(v, rnd) : d2h(v, rnd);
  if (flag & F_RELU) {
    if (v != v)
      r = 0x7fff;
    else if (!(v > 0))
      r = 0;
  }
  if (flag & F_SATFIN) {
    u16 inf = bf ? 0x7f80 : 0x7c00;
    if ((r & 0x7fff) == inf) r = (u16)(r - 1);
    if (v != v) r = 0x7fff;
  }
  if (flag & F_SAT) {
    float f = bf ? b2f(r) : h2f(r);
    f = satf(f);
    r = bf ? f2b(f) : f2h(f);
  }
  return r;
}
// general conversion: I.ty dst, I.ty2 src, rs dst register size, rs2 src register size, n=1: integer rounding mode (float->float "rni")
static void h_cvt(Warp& w, const Inst& I, u32 m) {
  Ty D = (Ty)I.ty, S = (Ty)I.ty2;
  bool fz = I.flag & F_FTZ, sat = I.flag & F_SAT;
  EACH(
      if (isFloatTy(S)) {
        double v = S == T_F32 || S == T_TF32 ? (double)RG<float>(w, I.a)[i]
                   : S == T_F64              ? RG<double>(w, I.a)[i]
                   : S == T_F16              ? h2f(RG<u16>(w, I.a)[i])
                                             : b2f(RG<u16>(w, I.a)[i]);
        if (fz && S == T_F32) v = ftzf((float)v);
        if (isFloatTy(D)) {
          if (I.n) v = rintMode(v, I.rnd);
          switch (D) {
            case T_F32: {
              float f;
              if (S == T_F64 && !I.n)
                f = dirF(v, 0, I.rnd);
              else
                f = (float)v;
              if (fz) f = ftzf(f);
              if (sat) f = satf(f);
              if (I.flag & F_RELU) f = f != f ? f : f > 0 ? f : 0.f;
              RG<float>(w, I.d)[i] = f;
              break;
            }
            case T_F64:
              RG<double>(w, I.d)[i] = sat ? satd(v) : v;
              break;
            case T_F16:
              RG<u16>(w, I.d)[i] = toHalfR(v, false, I.rnd, I.flag);
              break;
            case T_BF16:
              RG<u16>(w, I.d)[i] = toHalfR(v, true, I.rnd, I.flag);
              break;
            case T_TF32: {
              u32 b = bitcast<u32>((float)v);
              if ((b & 0x7f800000u) != 0x7f800000u) {
                u32 low = b & 0x1fff;
                b &= ~0x1fffu;
                if (I.rnd == R_RNA  ? low >= 0x1000
                    : I.rnd == R_RN ? (low > 0x1000 || (low == 0x1000 && (b & 0x2000)))
                                    : false)
                  b += 0x2000;
              } else if (b & 0x7fffff)
                b = 0x7fffffffu;
              if ((I.flag & F_RELU) && (b >> 31)) b = 0;
              RG<u32>(w, I.d)[i] = b;
              break;
            }
            default:
              break;
          }
        } else {
          double t = rintMode(v, I.rnd);
          int bits = tySize(D) * 8;
          bool sg = isSigned(D);
          u64 r;
          if (v != v)
            r = (S == T_F64 || bits == 64) ? (1ull << (bits - 1)) : 0;
          else if (sg) {
            double hi = std::ldexp(1.0, bits - 1);
            r = t >= hi   ? (u64)((1ull << (bits - 1)) - 1)
                : t < -hi ? (u64)(-(i64)(1ull << (bits - 1)))
                          : (u64)(i64)t;
          } else {
            double hi = std::ldexp(1.0, bits);
            r = t >= hi ? (bits == 64 ? ~0ull : (1ull << bits) - 1) : t < 0 ? 0 : (u64)t;
          }
          if (sg && bits < 64)
            r = (u64)((i64)(r << (64 - bits)) >> (64 - bits));
          else if (!sg && bits < 64)
            r &= (1ull << bits) - 1;
          wrInt(w.R, I.d, i, I.rs, r);
        }
      } else {
        i64 s = rdInt(w.R, I.a, i, I.rs2, S);
        if (isFloatTy(D)) {
          bool us = !isSigned(S);
          switch (D) {
            case T_F64:
              RG<double>(w, I.d)[i] = I.rnd ? [&]() { static const int M[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD}; int o = fegetround(); fesetround(M[I.rnd & 3]); volatile i64 q = s; volatile double r = us ? (double)(u64)q : (double)q; fesetround(o); return (double)r; }() : us ? (double)(u64)s : (double)s;
              break;
            case T_F32: {
              float f;
              if (I.rnd == R_RN)
                f = us ? (float)(u64)s : (float)s;
              else {
                double dd = us ? (double)(u64)s : (double)s;
                long double ex = us ? (long double)(u64)s : (long double)s;
                f = dirF(dd, (double)(ex - (long double)dd), I.rnd);
              }
              if (sat) f = satf(f);
              RG<float>(w, I.d)[i] = f;
              break;
            }
            default: {
              long double ex = us ? (long double)(u64)s : (long double)s;
              double dd = (double)ex;
              long double er = ex - (long double)dd;
              if (er != 0) dd = sumOdd(dd, (double)er);
              RG<u16>(w, I.d)[i] = toHalfR(dd, D == T_BF16, I.rnd, I.flag);
            }
          }
        } else {
          int bits = tySize(D) * 8;
          bool dsg = isSigned(D);
          u64 r = (u64)s;
          if (sat) {
            bool ssg = isSigned(S);
            if (dsg) {
              i64 hi = bits == 64 ? INT64_MAX : (i64)((1ull << (bits - 1)) - 1);
              i64 lo = -hi - 1;
              if (!ssg)
                r = (u64)s > (u64)hi ? (u64)hi : (u64)s;
              else
                r = (u64)(s > hi ? hi : s < lo ? lo : s);
            } else {
              u64 hi = bits == 64 ? ~0ull : (1ull << bits) - 1;
              if (ssg && s < 0)
                r = 0;
              else
                r = (u64)s > hi ? hi : (u64)s;
            }
          }
          if (bits < 64)
            r = dsg ? (u64)((i64)(r << (64 - bits)) >> (64 - bits)) : r & ((1ull << bits) - 1);
          wrInt(w.R, I.d, i, I.rs, r);
        }
      });
}
// d = {hi=a, lo=b}
static void h_cvtpack(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b);
  bool bf = I.ty == T_BF16X2;
  EACH(float x = a[i]; float y = b[i]; if (I.flag & F_FTZ) {
    x = ftzf(x);
    y = ftzf(y);
  } u32 hi = toHalfR(x, bf, I.rnd, I.flag);
       u32 lo = toHalfR(y, bf, I.rnd, I.flag); d[i] = hi << 16 | lo;);
}
static void h_cvtpacki(Warp& w, const Inst& I,
                       u32 m) {  // cvt.pack.sat.{u16,s16,u8,s8,..}.s32(.b32)
  u32* d = RG<u32>(w, I.d);
  const i32 *a = RG<i32>(w, I.a), *b = RG<i32>(w, I.b);
  int bits = tySize((Ty)I.ty) * 8;
  bool sg = isSigned((Ty)I.ty);
  auto st = [&](i64 v) {
    i64 hi = sg ? (1ll << (bits - 1)) - 1 : (1ll << bits) - 1, lo = sg ? -hi - 1 : 0;
    return (u32)(v > hi ? hi : v < lo ? lo : v) & ((1u << bits) - 1);
  };
  EACH(u32 p = st(a[i]) << bits | st(b[i]);
       if (bits == 8) p |= (I.c ? RG<u32>(w, I.c)[i] : 0) << 16; d[i] = p;);
}
static void h_pack(Warp& w, const Inst& I,
                   u32 m) {  // pool: n element registers of es bytes -> d of rs bytes
  const u32* pl = w.C->prog->pool.data() + I.ext;
  EACH(u64 v = 0; for (u32 k = 0; k < I.n; k++) {
    u64 x = I.es == 2   ? RG<u16>(w, pl[k])[i]
            : I.es == 4 ? RG<u32>(w, pl[k])[i]
                        : (u64)(u8)RG<u16>(w, pl[k])[i];
    v |= x << (8 * I.es * k);
  } wrInt(w.R, I.d, i, I.rs, v););
}
static void h_unpack(Warp& w, const Inst& I, u32 m) {
  const u32* pl = w.C->prog->pool.data() + I.ext;
  EACH(u64 v = I.rs == 8   ? RG<u64>(w, I.a)[i]
               : I.rs == 4 ? RG<u32>(w, I.a)[i]
                           : RG<u16>(w, I.a)[i];
       for (u32 k = 0; k < I.n; k++) if (pl[k] != SINK) {
         u64 x = v >> (8 * I.es * k);
         if (I.es == 2)
           RG<u16>(w, pl[k])[i] = (u16)x;
         else if (I.es == 4)
           RG<u32>(w, pl[k])[i] = (u32)x;
         else
           RG<u16>(w, pl[k])[i] = (u8)x;
       });
}
static void h_clock(Warp& w, const Inst& I, u32 m) {
  u64 c = w.C->winst * 4;
  if (I.rs == 8) {
    u64* d = RG<u64>(w, I.d);
    EACH(d[i] = c;);
  } else {
    u32* d = RG<u32>(w, I.d);
    EACH(d[i] = (u32)c;);
  }
}
static void h_activemask(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  EACH(d[i] = m;);
}
static void h_nop(Warp&, const Inst&, u32) {}
static void h_cvta(Warp& w, const Inst& I,
                   u32 m) {  // op 0: to generic (add window), 1: from generic (strip)
  if (I.rs == 4) {
    u32* d = RG<u32>(w, I.d);
    const u32* a = RG<u32>(w, I.a);
    LANES(d[i] = a[i];);
    return;
  }
  u64* d = RG<u64>(w, I.d);
  const u64* a = RG<u64>(w, I.a);
  u64 win = I.space == SP_SHARED ? SHIDX << VBITS : I.space == SP_LOCAL ? LOIDX << VBITS : 0;
  if (!win) {
    LANES(d[i] = a[i];);
    return;
  }
  if (I.op == 0)
    LANES(d[i] = a[i] | win;);
  else
    LANES(d[i] = a[i] & VMASK;);
}
static void h_isspacep(Warp& w, const Inst& I, u32 m) {
  const u64* a = RG<u64>(w, I.a);
  u32 r = 0;
  auto& R = *w.C->ranges;
  EACH(u64 x = a[i] >> VBITS; bool s = x == SHIDX; bool l = x == LOIDX;
       bool kp = x < R.size() && R[x].kparam;
       bool v = I.space == SP_SHARED   ? s
                : I.space == SP_LOCAL  ? l
                : I.space == SP_GLOBAL ? !s && !l
                : I.space == SP_PARAM  ? kp
                                       : (x < R.size() && R[x].ro);
       if (v) r |= 1u << i;);
  writePredicate(w, I.d, m, r);
}
