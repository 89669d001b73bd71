// Arithmetic in float32 and float64.
#pragma once

#include "compare_handlers.h"

enum FOp : u8 {
  FADD,
  FSUB,
  FMUL,
  FDIV,
  FMIN,
  FMAX,
  FCOPYSIGN,
  FABS,
  FNEG,
  FRCP,
  FSQRT,
  FRSQRT,
  FSIN,
  FCOS,
  FLG2,
  FEX2,
  FTANH
};
static inline float minmaxF(bool mx, float a, float b, bool nan) {
  if (a != a || b != b) {
    if (nan || (a != a && b != b)) return bitcast<float>(0x7fffffffu);
    return a != a ? b : a;
  }
  if (a == b)
    return bitcast<float>(mx ? (bitcast<u32>(a) & bitcast<u32>(b))
                             : (bitcast<u32>(a) | bitcast<u32>(b)));
  return (mx ? a > b : a < b) ? a : b;
}
template <bool FTZ>
static inline float flushed(float x) {
  return FTZ ? ftzf(x) : x;
}
// Sets the active lanes of a float32 destination, clamped to 0 .. 1 where the instruction says so.
template <bool FTZ, class Result>
static inline void writeF32(Warp& w, const Inst& I, u32 m, Result result) {
  float* d = RG<float>(w, I.d);
  if (I.flag & F_SAT)
    LANES(d[i] = satf(flushed<FTZ>(result(i))););
  else
    LANES(d[i] = flushed<FTZ>(result(i)););
}
template <int OP, bool FTZ>
static void h_f2(Warp& w, const Inst& I, u32 m) {
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b);
  writeF32<FTZ>(w, I, m, [=](int i) {
    float x = flushed<FTZ>(a[i]), y = flushed<FTZ>(b[i]);
    return OP == FADD ? x + y : OP == FSUB ? x - y : OP == FMUL ? x * y : x / y;
  });
}
template <bool MX>
static void h_fmm(Warp& w, const Inst& I, u32 m) {
  float* d = RG<float>(w, I.d);
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b);
  bool nan = I.flag & F_NAN, fz = I.flag & F_FTZ, xs = I.flag & F_XORSIGN;
  if (!nan && !fz && !xs) {
    LANES(float x = a[i]; float y = b[i]; float r = (MX ? x > y : x < y) ? x : y;
          r = (x == y) ? bitcast<float>(MX ? (bitcast<u32>(x) & bitcast<u32>(y))
                                           : (bitcast<u32>(x) | bitcast<u32>(y)))
                       : r;
          r = y != y ? x : (x != x ? y : r); d[i] = r;);
    return;
  }
  EACH(
      float x = a[i]; float y = b[i]; if (fz) {
        x = ftzf(x);
        y = ftzf(y);
      } if (xs) {
        u32 s = (bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u;
        float r = minmaxF(MX, std::fabs(x), std::fabs(y), nan);
        d[i] = bitcast<float>(bitcast<u32>(r) | s);
      } else d[i] = minmaxF(MX, x, y, nan););
}
// An operation on float32 values, rounded once as `rnd` says: 0 add, 1 sub, 2 mul, 3 fma, 4 div,
// 5 sqrt, 6 rcp. Each is exact in float64 but for an error whose sign is known.
static inline float directed(int op, double x, double y, double z, int rnd) {
  switch (op) {
    case 0: {
      double s = x + y;
      return dirF(s, twoErr(x, y, s), rnd);
    }
    case 1:
      return directed(0, x, -y, 0, rnd);
    case 2:
      return dirF(x * y, 0, rnd);
    case 3:
      return directed(0, x * y, z, 0, rnd);
    case 4: {
      double q = x / y;
      return dirF(q, std::fma(-q, y, x) * (y < 0 ? -1 : 1), rnd);
    }
    case 5: {
      double q = std::sqrt(x);
      return dirF(q, std::fma(-q, q, x), rnd);
    }
    default: {
      double q = 1.0 / x;
      return dirF(q, std::fma(-q, x, 1.0) * (x < 0 ? -1 : 1), rnd);
    }
  }
}
// float32 with .rz, .rm or .rp; the operation in op.
static void h_fdirected(Warp& w, const Inst& I, u32 m) {
  float* d = RG<float>(w, I.d);
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b), *c = RG<float>(w, I.c);
  bool fz = I.flag & F_FTZ;
  EACH(double x = fz ? ftzf(a[i]) : a[i]; double y = I.op <= 4 ? (fz ? ftzf(b[i]) : b[i]) : 0;
       double z = I.op == 3 ? (fz ? ftzf(c[i]) : c[i]) : 0;
       float r = directed(I.op, x, y, z, I.rnd); if (fz) r = ftzf(r);
       if (I.flag & F_SAT) r = satf(r); d[i] = r;);
}
template <bool FTZ>
static void h_ffma(Warp& w, const Inst& I, u32 m) {
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b), *c = RG<float>(w, I.c);
  writeF32<FTZ>(w, I, m, [=](int i) {
    return __builtin_fmaf(flushed<FTZ>(a[i]), flushed<FTZ>(b[i]), flushed<FTZ>(c[i]));
  });
}
template <int OP>
static void h_f1(Warp& w, const Inst& I, u32 m) {
  float* d = RG<float>(w, I.d);
  const float* a = RG<float>(w, I.a);
  bool fz = I.flag & F_FTZ;
  if ((OP == FABS || OP == FNEG) && !fz) {
    LANES(d[i] = OP == FABS ? std::fabs(a[i]) : -a[i];);
    return;
  }
  EACH(float x = fz ? ftzf(a[i]) : a[i]; double wide = x;
       float r = OP == FABS     ? std::fabs(x)
                 : OP == FNEG   ? -x
                 : OP == FRCP   ? 1.0f / x
                 : OP == FSQRT  ? std::sqrt(x)
                 : OP == FRSQRT ? (float)(1.0 / std::sqrt(wide))
                 : OP == FSIN   ? (float)std::sin(wide)
                 : OP == FCOS   ? (float)std::cos(wide)
                 : OP == FLG2   ? (float)std::log2(wide)
                 : OP == FEX2   ? (float)std::exp2(wide)
                                : (float)std::tanh(wide);
       d[i] = fz ? ftzf(r) : r;);
}
static void h_copysign32(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b);
  LANES(d[i] = (a[i] & 0x80000000u) | (b[i] & 0x7fffffffu););
}
static void h_copysign64(Warp& w, const Inst& I, u32 m) {
  u64* d = RG<u64>(w, I.d);
  const u64 *a = RG<u64>(w, I.a), *b = RG<u64>(w, I.b);
  LANES(d[i] = (a[i] & (1ull << 63)) | (b[i] & ~(1ull << 63)););
}
static void h_testp(Warp& w, const Inst& I,
                    u32 m) {  // n: 0 finite 1 infinite 2 number 3 notanumber 4 normal 5 subnormal
  u32 r = 0;
  EACH(
      double x; bool sub; bool nor; if (I.ty == T_F32) {
        float f = RG<float>(w, I.a)[i];
        x = f;
        sub = std::fpclassify(f) == FP_SUBNORMAL;
        nor = std::isnormal(f);
      } else {
        x = RG<double>(w, I.a)[i];
        sub = std::fpclassify(x) == FP_SUBNORMAL;
        nor = std::isnormal(x);
      } bool v = I.n == 0 ? std::isfinite(x)
                                    : I.n == 1 ? std::isinf(x)
                                    : I.n == 2 ? !std::isnan(x)
                                    : I.n == 3 ? std::isnan(x)
                                    : I.n == 4 ? nor
                                               : sub;
      if (v) r |= 1u << i;);
  writePredicate(w, I.d, m, r);
}
template <int OP>
static void h_d2(Warp& w, const Inst& I, u32 m) {
  double* d = RG<double>(w, I.d);
  const double *a = RG<double>(w, I.a), *b = RG<double>(w, I.b);
  if (I.rnd && OP <= FDIV) {
    EACH(d[i] = d64dir(OP == FADD   ? 0
                       : OP == FSUB ? 1
                       : OP == FMUL ? 2
                                    : 4,
                       a[i], b[i], 0, I.rnd););
    return;
  }
  LANES(double x = a[i]; double y = b[i]; double r; if (OP == FADD) r = x + y;
        else if (OP == FSUB) r = x - y; else if (OP == FMUL) r = x * y;
        else if (OP == FDIV) r = x / y; else if (OP == FMIN) r = std::fmin(x, y);
        else r = std::fmax(x, y); d[i] = r;);
}
static void h_dfma(Warp& w, const Inst& I, u32 m) {
  double* d = RG<double>(w, I.d);
  const double *a = RG<double>(w, I.a), *b = RG<double>(w, I.b), *c = RG<double>(w, I.c);
  if (I.rnd) {
    EACH(d[i] = d64dir(3, a[i], b[i], c[i], I.rnd););
    return;
  }
  LANES(d[i] = __builtin_fma(a[i], b[i], c[i]););
}
template <int OP>
static void h_d1(Warp& w, const Inst& I, u32 m) {
  double* d = RG<double>(w, I.d);
  const double* a = RG<double>(w, I.a);
  if (OP == FABS || OP == FNEG) {
    LANES(d[i] = OP == FABS ? std::fabs(a[i]) : -a[i];);
    return;
  }
  EACH(double x = a[i]; double r; switch (OP) {
    case FRCP:
      r = (I.flag & F_FTZ) ? bitcast<double>(bitcast<u64>(1.0 / x) & 0xffffffff00000000ull)
          : I.rnd          ? d64dir(4, 1.0, x, 0, I.rnd)
                           : 1.0 / x;
      break;
    case FSQRT:
      r = I.rnd ? d64dir(5, x, 0, 0, I.rnd) : std::sqrt(x);
      break;
    case FRSQRT:
      r = 1.0 / std::sqrt(x);
      if (I.flag & F_FTZ) r = bitcast<double>(bitcast<u64>(r) & 0xffffffff00000000ull);
      break;
    default:
      r = 0;
  } d[i] = r;);
}
static void h_f32x2(Warp& w, const Inst& I, u32 m) {  // op 0 add 1 sub 2 mul 3 fma
  float* d = RG<float>(w, I.d);
  const float *a = RG<float>(w, I.a), *b = RG<float>(w, I.b), *c = RG<float>(w, I.c);
  bool fz = I.flag & F_FTZ;
  EACH(for (int k = 2 * i; k < 2 * i + 2; k++) {
    float x = a[k];
    float y = b[k];
    float z = I.op == 3 ? c[k] : 0;
    if (fz) {
      x = ftzf(x);
      y = ftzf(y);
      z = ftzf(z);
    }
    bool fma = I.op == 3 && I.rnd == R_RN;
    float r = fma ? std::fma(x, y, z) : directed(I.op, x, y, z, I.rnd);
    d[k] = fz ? ftzf(r) : r;
  });
}
