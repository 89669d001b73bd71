// Bit fields, permutations of bytes and packed integers.
#pragma once

#include "integer_handlers.h"

static void h_lop3(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  u32 t = (u32)I.imm;
  LANES(u32 r = 0; u32 A = a[i]; u32 B = b[i]; u32 Cc = c[i]; if (t & 1) r |= ~A & ~B & ~Cc;
        if (t & 2) r |= ~A & ~B & Cc; if (t & 4) r |= ~A & B & ~Cc; if (t & 8) r |= ~A & B & Cc;
        if (t & 16) r |= A & ~B & ~Cc; if (t & 32) r |= A & ~B & Cc; if (t & 64) r |= A & B & ~Cc;
        if (t & 128) r |= A & B & Cc; d[i] = r;);
}
template <class T>
static void h_popc(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const T* a = RG<T>(w, I.a);
  LANES(d[i] = (u32)__builtin_popcountll((u64)a[i]););
}
template <class T>
static void h_clz(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const T* a = RG<T>(w, I.a);
  EACH(d[i] = a[i] ? (u32)__builtin_clzll((u64)a[i]) - (64 - sizeof(T) * 8) : sizeof(T) * 8;);
}
template <class T>
static void h_brev(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T* a = RG<T>(w, I.a);
  EACH(T x = a[i]; T r = 0; for (u32 k = 0; k < sizeof(T) * 8; k++) {
    r = (T)(r << 1) | (x & 1);
    x >>= 1;
  } d[i] = r;);
}
template <class T>
static void h_bfind(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const T* a = RG<T>(w, I.a);
  const int B = sizeof(T) * 8;
  EACH(T v = a[i]; if (std::is_signed<T>::value && v < 0) v = (T)~v; u64 u = (u64)v;
       if (B == 32) u &= 0xffffffffu; u32 r = u ? 63 - (u32)__builtin_clzll(u) : 0xffffffffu;
       if (I.op && r != 0xffffffffu) r = B - 1 - r; d[i] = r;);
}
template <class T>
static void h_bfe(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T* a = RG<T>(w, I.a);
  const u32 *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  typedef typename std::make_unsigned<T>::type U;
  const u32 B = sizeof(T) * 8;
  EACH(
      u32 pos = b[i] & 255; u32 len = c[i] & 255; U v = (U)a[i]; if (len == 0) {
        d[i] = 0;
        continue;
      } U r = pos >= B ? 0 : v >> pos;
      U msk = len >= B ? (U) ~(U)0 : (U)(((U)1 << len) - 1); r &= msk;
      if (std::is_signed<T>::value) {
        u32 sp = std::min(pos + len - 1, B - 1);
        bool s = (v >> sp) & 1;
        u32 have = pos >= B ? 0 : std::min(len, B - pos);
        if (s) {
          U keep = have >= B ? (U) ~(U)0 : (U)(((U)1 << have) - 1);
          r |= (U)~keep;
        }
      } d[i] = (T)r;);
}
template <class T>
static void h_bfi(Warp& w, const Inst& I, u32 m) {
  T* d = RG<T>(w, I.d);
  const T *a = RG<T>(w, I.a), *b = RG<T>(w, I.b);
  const u32 *c = RG<u32>(w, I.c), *e = RG<u32>(w, I.e);
  const u32 B = sizeof(T) * 8;
  EACH(u32 pos = c[i] & 255; u32 len = e[i] & 255;
       T msk = (len >= B ? (T) ~(T)0 : (T)(((T)1 << len) - 1)); if (pos >= B) d[i] = b[i]; else {
         msk = (T)(msk << pos);
         d[i] = (T)((b[i] & ~msk) | ((T)(a[i] << pos) & msk));
       });
}
static void h_prmt(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  EACH(u64 v = ((u64)b[i] << 32) | a[i]; u32 s = c[i]; u32 r = 0; for (int k = 0; k < 4; k++) {
    u32 sel;
    bool sg = false;
    switch (I.op) {
      default:
        sel = (s >> (4 * k)) & 7;
        sg = (s >> (4 * k)) & 8;
        break;
      case 1:
        sel = ((s & 3) + k) & 7;
        break;  // f4e
      case 2:
        sel = ((s & 3) - k) & 7;
        break;  // b4e
      case 3:
        sel = s & 3;
        break;  // rc8
      case 4:
        sel = std::max<u32>(s & 3, k);
        break;  // ecl
      case 5:
        sel = std::min<u32>(s & 3, k);
        break;  // ecr
      case 6:
        sel = ((s & 1) << 1) + (k & 1);
        break;  // rc16
    }
    u32 by = (u32)(v >> (8 * sel)) & 255;
    if (sg) by = (by & 128) ? 255 : 0;
    r |= by << (8 * k);
  } d[i] = r;);
}
static void h_shf(Warp& w, const Inst& I, u32 m) {  // op bit0: right, bit1: wrap
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  bool r = I.op & 1, wr = I.op & 2;
  LANES(u32 n = wr ? (c[i] & 31) : (c[i] > 32 ? 32 : c[i]); u64 v = ((u64)b[i] << 32) | a[i];
        d[i] = r ? (n == 32 ? b[i] : (u32)(v >> n)) : (n == 32 ? a[i] : (u32)(v << n >> 32)););
}
static void h_sad(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  bool s = I.op;
  LANES(u32 x = s ? ((i32)a[i] > (i32)b[i] ? a[i] - b[i] : b[i] - a[i])
                  : (a[i] > b[i] ? a[i] - b[i] : b[i] - a[i]);
        d[i] = x + c[i];);
}
static void h_mul24(Warp& w, const Inst& I, u32 m) {  // op bit0 signed, bit1 hi, bit2 mad
  i32* d = RG<i32>(w, I.d);
  const i32 *a = RG<i32>(w, I.a), *b = RG<i32>(w, I.b), *c = RG<i32>(w, I.c);
  EACH(i64 x = (I.op & 1) ? ((i32)((u32)a[i] << 8) >> 8) : (a[i] & 0xffffff);
       i64 y = (I.op & 1) ? ((i32)((u32)b[i] << 8) >> 8) : (b[i] & 0xffffff); i64 p = x * y;
       i32 r = (I.op & 2) ? (i32)(p >> 16) : (i32)p; d[i] = r + ((I.op & 4) ? c[i] : 0););
}
static void h_dp4a(Warp& w, const Inst& I, u32 m) {  // op bit0: a signed, bit1: b signed
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
  EACH(u32 s = c[i]; for (int k = 0; k < 4; k++) {
    i32 x = (I.op & 1) ? (i8)(a[i] >> (8 * k)) : (u8)(a[i] >> (8 * k));
    i32 y = (I.op & 2) ? (i8)(b[i] >> (8 * k)) : (u8)(b[i] >> (8 * k));
    s += (u32)(x * y);
  } d[i] = s;);
}
static void h_bmsk(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b);
  EACH(u32 p = a[i]; u32 n = b[i]; if (I.op) {
    p &= 31;
    n &= 31;
  } u32 k = n >= 32 ? ~0u : (1u << n) - 1;
       d[i] = p >= 32 ? 0 : k << p;);
}
static void h_szext(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b);
  EACH(u32 n = (I.op & 2) ? (b[i] & 31) : std::min(b[i], 32u); if (n == 0) d[i] = 0;
       else if (n == 32) d[i] = a[i]; else {
         u32 k = (1u << n) - 1;
         u32 v = a[i] & k;
         if ((I.op & 1) && (v >> (n - 1))) v |= ~k;
         d[i] = v;
       });
}
static void h_i16x2(Warp& w, const Inst& I, u32 m) {  // op 0 add 1 min 2 max; rs: signed
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b);
  EACH(u32 r = 0; for (int k = 0; k < 32; k += 16) {
    int x = I.rs ? (int)(i16)(a[i] >> k) : (int)(u16)(a[i] >> k);
    int y = I.rs ? (int)(i16)(b[i] >> k) : (int)(u16)(b[i] >> k);
    int v = I.op == 0 ? x + y : I.op == 1 ? std::min(x, y) : std::max(x, y);
    if ((I.flag & F_RELU) && v < 0) v = 0;
    r |= (u32)(u16)v << k;
  } d[i] = r;);
}
static void h_fns(Warp& w, const Inst& I, u32 m) {
  u32* d = RG<u32>(w, I.d);
  const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b);
  const i32* c = RG<i32>(w, I.c);
  EACH(
      u32 r = 0xffffffffu; i32 off = c[i]; u32 base = b[i]; if (off == 0) {
        if (base < 32 && (a[i] >> base & 1)) r = base;
      } else {
        i32 pos = (i32)base;
        i32 st = off > 0 ? 1 : -1;
        i32 cnt = std::abs(off) - 1;
        while (pos >= 0 && pos < 32) {
          if (a[i] >> pos & 1) {
            if (cnt == 0) {
              r = (u32)pos;
              break;
            }
            cnt--;
          }
          pos += st;
        }
      } d[i] = r;);
}
