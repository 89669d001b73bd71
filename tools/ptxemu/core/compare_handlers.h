// Predicates, comparisons and selections.
#pragma once

#include <type_traits>
#include <utility>

#include "bit_handlers.h"

// Predicates are lane masks. Sets those of the active lanes; SINK takes none.
static inline void writePredicate(Warp& w, u32 reg, u32 m, u32 value) {
  if (reg == SINK) return;
  u32& d = *RG<u32>(w, reg);
  d = (d & ~m) | (value & m);
}
// The predicate of operand c, negated where it has a !.
static inline u32 predicateC(Warp& w, const Inst& I) {
  u32 c = *RG<u32>(w, I.c);
  return I.flag & F_NEGC ? ~c : c;
}
// Combines lanes as .and, .or or .xor says: op 1, 2 or 3; 0 is neither.
static inline u32 combine(int op, u32 x, u32 c) {
  return op == 0 ? x : op == 1 ? (x & c) : op == 2 ? (x | c) : (x ^ c);
}
static void h_pred2(Warp& w, const Inst& I, u32 m) {
  u32 a = *RG<u32>(w, I.a), b = *RG<u32>(w, I.b);
  if (I.flag & F_HI) a = ~a;
  if (I.flag & F_NEGC) b = ~b;
  writePredicate(w, I.d, m, combine(I.op + 1, a, b));
}
static void h_pred1(Warp& w, const Inst& I, u32 m) {
  u32 a = *RG<u32>(w, I.a);
  if (I.flag & F_HI) a = ~a;
  if (I.op) a = ~a;
  writePredicate(w, I.d, m, a);
}
template <class T>
static void h_selp(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  u32 p = predicateC(w, I);
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
template <class T, int... C>
static bool compareAs(int c, T a, T b, std::integer_sequence<int, C...>) {
  static bool (*const kComparisons[])(T, T) = {cmpT<C, T>...};
  return kComparisons[c](a, b);
}
// Comparison c, one of Cmp.
template <class T>
static bool compare(int c, T a, T b) {
  return compareAs<T>(c, a, b, std::make_integer_sequence<int, CNAN + 1>());
}
// Writes a comparison's lanes, and to a second predicate their opposite, both combined with c.
static inline void setpOut(Warp& w, const Inst& I, u32 m, u32 lanes, u32 opposite) {
  u32 c = I.op ? predicateC(w, I) : 0;
  writePredicate(w, I.d, m, combine(I.op, lanes, c));
  writePredicate(w, I.e, m, combine(I.op, opposite, c));
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
  setpOut(w, I, m, r, ~r);
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
  EACH(if (compare(I.n, anyF((Ty)I.ty, a, x2 ? 2 * i : i), anyF((Ty)I.ty, b, x2 ? 2 * i : i))) r |=
       1u << i;
       if (x2 && compare(I.n, anyF((Ty)I.ty, a, 2 * i + 1), anyF((Ty)I.ty, b, 2 * i + 1))) q |=
       1u << i;);
  setpOut(w, I, m, r, x2 ? q : ~r);  // of a pair, the second comparison
}
static i64 rdInt(const u8* R, u32 off, int i, int rs, Ty t);
static void h_set(Warp& w, const Inst& I,
                  u32 m) {  // generic set: dtype I.ty2, stype I.ty, comparison I.n
  Ty s = (Ty)I.ty, dt = (Ty)I.ty2;
  const void *a = w.R + I.a, *b = w.R + I.b;
  u32 cm = I.op ? predicateC(w, I) : 0;
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
      r = compare(I.n, x, y);
    } else {
      i64 x = rdInt(w.R, I.a, i, tySize(s), s);
      i64 y = rdInt(w.R, I.b, i, tySize(s), s);
      r = isSigned(s) ? compare(I.n, x, y) : compare(I.n, (u64)x, (u64)y);
    }
    r = combine(I.op, r, cm >> i & 1);
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
