// Predicates, comparisons and selections.
#pragma once

#include "bit_handlers.h"

// predicates are lane masks
static void h_pred2(Warp& w, const Inst& I, u32 m) {
  u32& d = *RG<u32>(w, I.d);
  u32 a = *RG<u32>(w, I.a), b = *RG<u32>(w, I.b);
  if (I.flag & F_HI) a = ~a;
  if (I.flag & F_NEGC) b = ~b;
  u32 r = I.op == 0 ? (a & b) : I.op == 1 ? (a | b) : (a ^ b);
  d = (d & ~m) | (r & m);
}
static void h_pred1(Warp& w, const Inst& I, u32 m) {
  u32& d = *RG<u32>(w, I.d);
  u32 a = *RG<u32>(w, I.a);
  if (I.flag & F_HI) a = ~a;
  if (I.op) a = ~a;
  d = (d & ~m) | (a & m);
}
template <class T>
static void h_selp(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  u32 p = *RG<u32>(w, I.c);
  if (I.flag & F_NEGC) p = ~p;
  LANES(d[i] = (p >> i & 1) ? a[i] : b[i];);
}
template <class T, class S>
static void h_slct(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  const S* c = RG<S>(w, I.c);
  LANES(d[i] = c[i] >= 0 ? a[i] : b[i];);
}

enum Cmp : u8 { CEQ, CNE, CLT, CLE, CGT, CGE, CEQU, CNEU, CLTU, CLEU, CGTU, CGEU, CNUM, CNAN };
template <int C, class T>
static inline bool cmpT(T a, T b) {
  if constexpr (C == CEQ)
    return a == b;
  else if constexpr (C == CNE)
    return std::is_floating_point<T>::value ? (a < b || a > b) : a != b;
  else if constexpr (C == CLT)
    return a < b;
  else if constexpr (C == CLE)
    return a <= b;
  else if constexpr (C == CGT)
    return a > b;
  else if constexpr (C == CGE)
    return a >= b;
  else if constexpr (C == CEQU)
    return !(a < b || a > b);
  else if constexpr (C == CNEU)
    return !(a == b);
  else if constexpr (C == CLTU)
    return !(a >= b);
  else if constexpr (C == CLEU)
    return !(a > b);
  else if constexpr (C == CGTU)
    return !(a <= b);
  else if constexpr (C == CGEU)
    return !(a < b);
  else if constexpr (C == CNUM)
    return a == a && b == b;
  else
    return !(a == a && b == b);
}
static bool cmpD(int c, double a, double b) {
  switch (c) {
    case CEQ:
      return cmpT<CEQ>(a, b);
    case CNE:
      return cmpT<CNE>(a, b);
    case CLT:
      return a < b;
    case CLE:
      return a <= b;
    case CGT:
      return a > b;
    case CGE:
      return a >= b;
    case CEQU:
      return cmpT<CEQU>(a, b);
    case CNEU:
      return cmpT<CNEU>(a, b);
    case CLTU:
      return cmpT<CLTU>(a, b);
    case CLEU:
      return cmpT<CLEU>(a, b);
    case CGTU:
      return cmpT<CGTU>(a, b);
    case CGEU:
      return cmpT<CGEU>(a, b);
    case CNUM:
      return cmpT<CNUM>(a, b);
    default:
      return cmpT<CNAN>(a, b);
  }
}
static inline void setpOut(Warp& w, const Inst& I, u32 m,
                           u32 r) {  // I.op: 0 none, 1 and, 2 or, 3 xor with predicate I.c
  u32 c = 0;
  if (I.op) {
    c = *RG<u32>(w, I.c);
    if (I.flag & F_NEGC) c = ~c;
  }
  auto comb = [&](u32 x) {
    return I.op == 0 ? x : I.op == 1 ? (x & c) : I.op == 2 ? (x | c) : (x ^ c);
  };
  u32 p = comb(r), q = comb(~r);
  if (I.d != SINK) {
    u32& d = *RG<u32>(w, I.d);
    d = (d & ~m) | (p & m);
  }
  if (I.e != SINK) {
    u32& d = *RG<u32>(w, I.e);
    d = (d & ~m) | (q & m);
  }
}
template <class T, int C, bool FTZ>
static void h_setp(Warp& w, const Inst& I, u32 m) {
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  u32 r = 0;
  if constexpr (FTZ) {
    for (int i = 0; i < 32; i++) r |= (u32)cmpT<C>(ftzf(a[i]), ftzf(b[i])) << i;
  } else {
    for (int i = 0; i < 32; i++) r |= (u32)cmpT<C>(a[i], b[i]) << i;
  }
  setpOut(w, I, m, r);
}
static inline double anyF(Ty t, const void* p, int idx) {
  switch (t) {
    case T_F32:
      return ((const float*)p)[idx];
    case T_F64:
      return ((const double*)p)[idx];
    case T_F16:
    case T_F16X2:
      return h2f(((const u16*)p)[idx]);
    default:
      return b2f(((const u16*)p)[idx]);
  }
}
static void h_setphalf(Warp& w, const Inst& I,
                       u32 m) {  // f16/bf16 (rs=1) and x2 (rs=2); comparison in I.n
  const void *a = w.R + I.a, *b = w.R + I.b;
  u32 r = 0, q = 0;
  bool x2 = I.rs == 2;
  EACH(if (cmpD(I.n, anyF((Ty)I.ty, a, x2 ? 2 * i : i), anyF((Ty)I.ty, b, x2 ? 2 * i : i))) r |=
       1u << i;
       if (x2 && cmpD(I.n, anyF((Ty)I.ty, a, 2 * i + 1), anyF((Ty)I.ty, b, 2 * i + 1))) q |= 1u
                                                                                             << i;);
  if (!x2) {
    setpOut(w, I, m, r);
    return;
  }
  u32 c = 0;
  if (I.op) {
    c = *RG<u32>(w, I.c);
    if (I.flag & F_NEGC) c = ~c;
  }
  auto comb = [&](u32 x) {
    return I.op == 0 ? x : I.op == 1 ? (x & c) : I.op == 2 ? (x | c) : (x ^ c);
  };
  if (I.d != SINK) {
    u32& d = *RG<u32>(w, I.d);
    d = (d & ~m) | (comb(r) & m);
  }
  if (I.e != SINK) {
    u32& d = *RG<u32>(w, I.e);
    d = (d & ~m) | (comb(q) & m);
  }
}
static i64 rdInt(const u8* R, u32 off, int i, int rs, Ty t);
static void h_set(Warp& w, const Inst& I,
                  u32 m) {  // generic set: dtype I.ty2, stype I.ty, comparison I.n
  Ty s = (Ty)I.ty, dt = (Ty)I.ty2;
  const void *a = w.R + I.a, *b = w.R + I.b;
  u32 cm = 0;
  if (I.op) {
    cm = *RG<u32>(w, I.c);
    if (I.flag & F_NEGC) cm = ~cm;
  }
  bool x2 = s == T_F16X2 || s == T_BF16X2;
  int n = x2 ? 2 : 1;
  EACH(for (int k = 0; k < n; k++) {
    bool r;
    if (isFloatTy(s)) {
      double x = anyF(s, a, i * n + k);
      double y = anyF(s, b, i * n + k);
      if ((I.flag & F_FTZ) && s == T_F32) {
        x = ftzf((float)x);
        y = ftzf((float)y);
      }
      r = cmpD(I.n, x, y);
    } else {
      i64 x = rdInt(w.R, I.a, i, tySize(s), s);
      i64 y = rdInt(w.R, I.b, i, tySize(s), s);
      if (isSigned(s))
        r = I.n == CEQ   ? x == y
            : I.n == CNE ? x != y
            : I.n == CLT ? x < y
            : I.n == CLE ? x <= y
            : I.n == CGT ? x > y
                         : x >= y;
      else {
        u64 ux = (u64)x;
        u64 uy = (u64)y;
        r = I.n == CEQ   ? ux == uy
            : I.n == CNE ? ux != uy
            : I.n == CLT ? ux < uy
            : I.n == CLE ? ux <= uy
            : I.n == CGT ? ux > uy
                         : ux >= uy;
      }
    }
    bool c = cm >> i & 1;
    if (I.op == 1)
      r = r && c;
    else if (I.op == 2)
      r = r || c;
    else if (I.op == 3)
      r = r != c;
    switch (dt) {
      case T_F32:
        RG<float>(w, I.d)[i] = r ? 1.f : 0.f;
        break;
      case T_F16:
      case T_F16X2:
        RG<u16>(w, I.d)[i * n + k] = r ? 0x3c00 : 0;
        break;
      case T_BF16:
      case T_BF16X2:
        RG<u16>(w, I.d)[i * n + k] = r ? 0x3f80 : 0;
        break;
      case T_U16:
      case T_S16:
        RG<u16>(w, I.d)[i] = r ? 0xffff : 0;
        break;
      default:
        if (x2)
          RG<u16>(w, I.d)[i * 2 + k] = r ? 0xffff : 0;
        else
          RG<u32>(w, I.d)[i] = r ? ~0u : 0u;
    }
  });
}
