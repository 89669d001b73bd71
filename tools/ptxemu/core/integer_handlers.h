// Integer arithmetic, carry chains and shifts.
#pragma once

#include "floats.h"

#define BIN(NAME, EXPR)           \
  struct NAME {                   \
    template <class T>            \
    static inline T f(T a, T b) { \
      return (T)(EXPR);           \
    }                             \
  };
// clang-format off
BIN(OAdd, a + b)
BIN(OSub, a - b)
BIN(OMul, a * b)
BIN(OAnd, a & b)
BIN(OOr, a | b)
BIN(OXor, a ^ b)
BIN(OMin, a < b ? a : b)
BIN(OMax, a > b ? a : b)
// clang-format on

struct ODiv {
  template <class T>
  static inline T f(T a, T b) {
    if (b == 0) return (T) ~(T)0;
    if (std::is_signed<T>::value && b == (T)-1)
      return (T)(0 - (typename std::make_unsigned<T>::type)a);
    return (T)(a / b);
  }
};
struct ORem {
  template <class T>
  static inline T f(T a, T b) {
    if (b == 0) return a;
    if (std::is_signed<T>::value && b == (T)-1) return 0;
    return (T)(a % b);
  }
};
template <class T, class F>
static void h_bin(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  LANES(d[i] = F::f(a[i], b[i]););
}
template <class T, class F>
static void h_bins(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  EACH(d[i] = F::f(a[i], b[i]););
}
template <class T>
static void h_shl(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T* a = RG<T>(w, I.a);
  const u32* b = RG<u32>(w, I.b);
  LANES(u32 s = b[i]; d[i] = s >= sizeof(T) * 8 ? (T)0 : (T)(a[i] << s););
}
template <class T>
static void h_shr(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T* a = RG<T>(w, I.a);
  const u32* b = RG<u32>(w, I.b);
  LANES(u32 s = b[i]; d[i] = s >= sizeof(T) * 8
                                 ? (T)(std::is_signed<T>::value ? (a[i] < 0 ? -1 : 0) : 0)
                                 : (T)(a[i] >> s););
}
#define UN(NAME, EXPR)       \
  struct NAME {              \
    template <class T>       \
    static inline T f(T a) { \
      return (T)(EXPR);      \
    }                        \
  };
// clang-format off
UN(ONot, ~a)
UN(ONeg, 0 - a)
UN(OAbs, a < 0 ? 0 - a : a)
UN(OMov, a)
UN(OCnot, a == 0 ? 1 : 0)
// clang-format on

template <class T, class F>
static void h_un(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T* a = RG<T>(w, I.a);
  LANES(d[i] = F::f(a[i]););
}
template <class T>
struct Wider {
  typedef __int128 S;
  typedef unsigned __int128 U;
};
template <>
struct Wider<u16> {
  typedef u32 U;
};
template <>
struct Wider<i16> {
  typedef i32 U;
};
template <>
struct Wider<u32> {
  typedef u64 U;
};
template <>
struct Wider<i32> {
  typedef i64 U;
};
template <>
struct Wider<u64> {
  typedef unsigned __int128 U;
};
template <>
struct Wider<i64> {
  typedef __int128 U;
};
template <class T>
static void h_mulhi(Warp& w, const Inst& I, u32 m) {
  typedef typename Wider<T>::U W;
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  LANES(d[i] = (T)((W)a[i] * (W)b[i] >> (sizeof(T) * 8)););
}
template <class T>
static void h_mulwide(Warp& w, const Inst& I, u32 m) {
  typedef typename Wider<T>::U W;
  W* d = RG<W>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  LANES(d[i] = (W)a[i] * (W)b[i];);
}
template <class T>
static void h_madlo(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b), *c = RG<T>(w, I.c);
  LANES(d[i] = (T)(a[i] * b[i] + c[i]););
}
template <class T>
static void h_madhi(Warp& w, const Inst& I, u32 m) {
  typedef typename Wider<T>::U W;
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b), *c = RG<T>(w, I.c);
  LANES(d[i] = (T)((T)((W)a[i] * (W)b[i] >> (sizeof(T) * 8)) + c[i]););
}
template <class T>
static void h_madwide(Warp& w, const Inst& I, u32 m) {
  typedef typename Wider<T>::U W;
  W* d = RG<W>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  const W* c = RG<W>(w, I.c);
  LANES(d[i] = (W)a[i] * (W)b[i] + c[i];);
}
static void h_addsat(Warp& w, const Inst& I, u32 m) {
  i32* d = RG<i32>(w, I.d);
  const i32 *a = RG<i32>(w, I.a), *b = RG<i32>(w, I.b);
  bool sub = I.op;
  LANES(i64 v = sub ? (i64)a[i] - b[i] : (i64)a[i] + b[i]; d[i] = v > INT32_MAX   ? INT32_MAX
                                                                  : v < INT32_MIN ? INT32_MIN
                                                                                  : (i32)v;);
}
// carry chain: op 0 add.cc, 1 addc(.cc), 2 sub.cc, 3 subc(.cc), 4 mad.lo.cc, 5 mad.hi.cc, 6 madc.lo, 7 madc.hi
template <class T>
static void h_carry(Warp& w, const Inst& I, u32 m) {
  typedef typename Wider<T>::U W;
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b), *c = RG<T>(w, I.c);
  const int B = sizeof(T) * 8;
  EACH(u32 bit = 1u << i; T cin = (w.cc & bit) ? 1 : 0; bool co = false; T r = 0; switch (I.op) {
    case 0: {
      W s = (W)a[i] + b[i];
      r = (T)s;
      co = (s >> B) != 0;
      break;
    }
    case 1: {
      W s = (W)a[i] + b[i] + cin;
      r = (T)s;
      co = (s >> B) != 0;
      break;
    }
    case 2:
      r = a[i] - b[i];
      co = a[i] < b[i];
      break;
    case 3: {
      W s = (W)b[i] + cin;
      r = (T)((W)a[i] - s);
      co = (W)a[i] < s;
      break;
    }
    default: {
      W p = (W)a[i] * b[i];
      T part = (I.op & 1) ? (T)(p >> B) : (T)p;
      W s = (W)part + c[i] + (I.op >= 6 ? cin : 0);
      r = (T)s;
      co = (s >> B) != 0;
    }
  } d[i] = r;
       if (I.flag & F_CC) w.cc = co ? (w.cc | bit) : (w.cc & ~bit););
}
