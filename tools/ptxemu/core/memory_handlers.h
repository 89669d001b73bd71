// Loads, stores, atomics and asynchronous copies.
#pragma once

#include "convert_handlers.h"

static inline void ldElem(Warp& w, const Inst& I, u32 m, u8** P, u32 dst, u32 k) {
  u32 o = k * I.es;
  Ty t = (Ty)I.ty;
  if (I.es == 4 && I.rs == 4) {
    u32* d = RG<u32>(w, dst);
    EACH(memcpy(&d[i], P[i] + o, 4););
    return;
  }
  if (I.es == 8 && I.rs == 8) {
    u64* d = RG<u64>(w, dst);
    EACH(memcpy(&d[i], P[i] + o, 8););
    return;
  }
  if (I.es == 2 && I.rs == 2) {
    u16* d = RG<u16>(w, dst);
    EACH(memcpy(&d[i], P[i] + o, 2););
    return;
  }
  EACH(u64 v = 0; memcpy(&v, P[i] + o, I.es); if (isSigned(t)) {
    int sh = 64 - 8 * I.es;
    v = (u64)((i64)(v << sh) >> sh);
  } wrInt(w.R, dst, i, I.rs, v););
}
static void h_ld(Warp& w, const Inst& I, u32 m) {
  u8* P[32];
  const u32* pl = w.C->prog->pool.data() + I.ext;
  resolve(w, I, m, I.space, I.es * I.vec, ACC_LD, I.a, I.imm, I.flag & F_A32, P);
  for (u32 k = 0; k < I.vec; k++)
    if (pl[k] != SINK) ldElem(w, I, m, P, pl[k], k);
}
// Copies the active lanes' bytes if there are N of them; a compiler makes one move of each.
template <u32 N>
static inline bool copyLanes(u32 m, u8** to, u8 (*from)[16], u32 size) {
  if (size != N) return false;
  EACH(memcpy(to[i], from[i], N););
  return true;
}
static void h_st(Warp& w, const Inst& I, u32 m) {
  u8* P[32];
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u32 sz = I.es * I.vec;
  alignas(16) u8 nv[32][16];
  if (sz <= 16) {
    for (u32 k = 0; k < I.vec; k++) {
      u32 s = pl[k], o = k * I.es;
      if (I.rs == 4 && I.es == 4) {
        const u32* a = RG<u32>(w, s);
        EACH(memcpy(nv[i] + o, &a[i], 4););
      } else if (I.rs == 8 && I.es == 8) {
        const u64* a = RG<u64>(w, s);
        EACH(memcpy(nv[i] + o, &a[i], 8););
      } else {
        EACH(u64 v = (u64)rdInt(w.R, s, i, I.rs, T_B64); memcpy(nv[i] + o, &v, I.es););
      }
    }
    resolve(w, I, m, I.space, sz, ACC_ST, I.a, I.imm, I.flag & F_A32, P, nv);
    if (!(copyLanes<2>(m, P, nv, sz) || copyLanes<4>(m, P, nv, sz) || copyLanes<8>(m, P, nv, sz) ||
          copyLanes<16>(m, P, nv, sz)))
      EACH(memcpy(P[i], nv[i], sz););
    return;
  }
  resolve(w, I, m, I.space, sz, ACC_ST, I.a, I.imm, I.flag & F_A32, P);
  for (u32 k = 0; k < I.vec; k++)
    EACH(u64 v = (u64)rdInt(w.R, pl[k], i, I.rs, T_B64); memcpy(P[i] + k * I.es, &v, I.es););
}
static void h_ldkp(Warp& w, const Inst& I,
                   u32 m) {  // ld.param of a kernel parameter at a fixed offset
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u64 al = (u64)I.es * I.vec;
  if ((u64)I.imm + al > w.C->prog->paramBytes)
    fault(w, I, __builtin_ctz(m), "oob", "kernel parameter read beyond the parameter block");
  for (u32 k = 0; k < I.vec; k++) {
    if (pl[k] == SINK) continue;
    u64 v = 0;
    memcpy(&v, w.C->kparam + I.imm + k * I.es, I.es);
    Ty t = (Ty)I.ty;
    if (isSigned(t)) {
      int sh = 64 - 8 * I.es;
      v = (u64)((i64)(v << sh) >> sh);
    }
    if (I.rs == 8) {
      u64* d = RG<u64>(w, pl[k]);
      LANES(d[i] = v;);
    } else if (I.rs == 4) {
      u32* d = RG<u32>(w, pl[k]);
      LANES(d[i] = (u32)v;);
    } else
      EACH(wrInt(w.R, pl[k], i, I.rs, v););
  }
}
static void h_ldp(Warp& w, const Inst& I, u32 m) {
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u8* P[32];
  EACH(P[i] = w.P + (size_t)I.b * 32 + (size_t)i * I.c + I.imm;);
  for (u32 k = 0; k < I.vec; k++)
    if (pl[k] != SINK) ldElem(w, I, m, P, pl[k], k);
}
static void h_stp(Warp& w, const Inst& I, u32 m) {
  const u32* pl = w.C->prog->pool.data() + I.ext;
  EACH(u8* p = w.P + (size_t)I.b * 32 + (size_t)i * I.c + I.imm; for (u32 k = 0; k < I.vec; k++) {
    u64 v = (u64)rdInt(w.R, pl[k], i, I.rs, T_B64);
    memcpy(p + k * I.es, &v, I.es);
  });
}

enum AOp : u8 { A_ADD, A_MIN, A_MAX, A_AND, A_OR, A_XOR, A_INC, A_DEC, A_EXCH, A_CAS };
static u64 atomNew(int op, Ty t, u64 o, u64 b, u64 c) {
  switch (op) {
    case A_AND:
      return o & b;
    case A_OR:
      return o | b;
    case A_XOR:
      return o ^ b;
    case A_EXCH:
      return b;
    case A_CAS:
      return o == b ? c : o;
    case A_INC:
      return (u32)o >= (u32)b ? 0 : (u32)o + 1;
    case A_DEC:
      return ((u32)o == 0 || (u32)o > (u32)b) ? (u32)b : (u32)o - 1;
    default:
      break;
  }
  auto h2 = [&](bool bf, bool two) {
    u64 r = 0;
    for (int k = 0; k < (two ? 2 : 1); k++) {
      u16 x = (u16)(o >> (16 * k)), y = (u16)(b >> (16 * k)), z;
      if (op == A_ADD)
        z = bf ? f2b(b2f(x) + b2f(y)) : f2h(h2f(x) + h2f(y));
      else
        z = bf ? minmaxH<true>(op == A_MAX, x, y, false) : minmaxH<false>(op == A_MAX, x, y, false);
      r |= (u64)z << (16 * k);
    }
    return r;
  };
  switch (t) {
    case T_F32: {
      float x = bitcast<float>((u32)o), y = bitcast<float>((u32)b);
      return bitcast<u32>(op == A_ADD ? x + y : minmaxF(op == A_MAX, x, y, false));
    }
    case T_F64:
      return bitcast<u64>(bitcast<double>(o) + bitcast<double>(b));
    case T_F16:
      return h2(false, false);
    case T_F16X2:
      return h2(false, true);
    case T_BF16:
      return h2(true, false);
    case T_BF16X2:
      return h2(true, true);
    case T_S32:
      return op == A_ADD   ? (u32)(o + b)
             : op == A_MIN ? (u32)std::min((i32)o, (i32)b)
                           : (u32)std::max((i32)o, (i32)b);
    case T_S64:
      return op == A_ADD   ? o + b
             : op == A_MIN ? (u64)std::min((i64)o, (i64)b)
                           : (u64)std::max((i64)o, (i64)b);
    case T_U64:
    case T_B64:
      return op == A_ADD ? o + b : op == A_MIN ? std::min(o, b) : std::max(o, b);
    default:
      return op == A_ADD   ? (u32)(o + b)
             : op == A_MIN ? std::min((u32)o, (u32)b)
                           : std::max((u32)o, (u32)b);
  }
}
template <class T>
static u64 atomDo(u8* p, int op, Ty t, u64 b, u64 c) {
  T* q = (T*)p;
  T old = __atomic_load_n(q, __ATOMIC_RELAXED);
  T nw;
  do {
    nw = (T)atomNew(op, t, old, b, c);
  } while (!__atomic_compare_exchange_n(q, &old, nw, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
  return old;
}
static void h_atom(Warp& w, const Inst& I,
                   u32 m) {  // pool: vec sources b, then vec sources c (cas), then vec dests
  u8* P[32];
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u32 sz = I.es * I.vec;
  resolve(w, I, m, I.space, sz, ACC_AT, I.a, I.imm, I.flag & F_A32, P);
  EACH(for (u32 k = 0; k < I.vec; k++) {
    u64 b = (u64)rdInt(w.R, pl[k], i, I.rs, T_B64);
    u64 c = pl[I.vec + k] == SINK ? 0 : (u64)rdInt(w.R, pl[I.vec + k], i, I.rs, T_B64);
    u8* p = P[i] + k * I.es;
    u64 o;
    o = I.es == 4   ? atomDo<u32>(p, I.op, (Ty)I.ty, b, c)
        : I.es == 8 ? atomDo<u64>(p, I.op, (Ty)I.ty, b, c)
                    : atomDo<u16>(p, I.op, (Ty)I.ty, b, c);
    if (pl[2 * I.vec + k] != SINK) wrInt(w.R, pl[2 * I.vec + k], i, I.rs, o);
  });
}

static void cpComplete(Warp& w, u32 m, u32 keep) {
  if (w.pend.empty()) return;
  size_t o = 0;
  Block& B = *w.B;
  for (size_t k = 0; k < w.pend.size(); k++) {
    Pend& p = w.pend[k];
    bool done = (m >> p.lane & 1) && (keep == ~0u || p.grp + keep < w.cpCommitted[p.lane]);
    if (!done) {
      if (o != k) w.pend[o] = p;
      o++;
      continue;
    }
    memcpy(B.smem.data() + p.off, p.data, p.size);
    u8* s = B.sinit.data() + p.off;
    for (u32 q = 0; q < p.size; q++) s[q] = 1;
    if (w.C->races) raceAcc(w, *p.I, p.lane, p.off, p.size, ACC_ST, nullptr);
  }
  w.pend.resize(o);
}
static void h_cpasync(
    Warp& w, const Inst& I,
    u32 m) {  // a: dst addr, b: src addr, imm dst offset, imm2 in target, n: size, c: src-size reg (or SINK), e: ignore-src predicate
  u8* P[32];
  u32 n = I.n;
  u32 act = m;
  Block& B = *w.B;
  Ctx& C = *w.C;
  u32 sizes[32];
  EACH(u32 s = n; if (I.c != SINK) {
    s = RG<u32>(w, I.c)[i];
    if (s > n) fault(w, I, i, "cp_async", "cp.async src-size exceeds cp-size");
  } if (I.e != SINK && (*RG<u32>(w, I.e) >> i & 1)) s = 0;
       sizes[i] = s; if (!s) act &= ~(1u << i););
  memset(P, 0, sizeof P);
  if (act) {
    u32 part = 0;
    {
      u32 m = act;
      EACH(if (sizes[i] != n) part |= 1u << i;);
    }
    if (act & ~part)
      resolve(w, I, act & ~part, SP_GLOBAL, n, ACC_LD, I.b, (i64)(i32)I.target, false, P);
    u32 m2 = m;
    m = part;
    EACH(P[i] = resolve1(w, I, i, SP_GLOBAL, RG<u64>(w, I.b)[i] + (i64)(i32)I.target, sizes[i],
                         ACC_LD););
    m = m2;
  }
  u32 offs[32];
  EACH(u64 o = (I.flag & F_A32) ? (u64)(u32)(RG<u32>(w, I.a)[i] + (u32)I.imm)
                                : ((RG<u64>(w, I.a)[i] + (u64)I.imm) & VMASK);
       if (o & (n - 1)) misaligned(w, I, i, o | SHIDX << VBITS, n); sptr(w, I, i, o, n, ACC_ST);
       offs[i] = (u32)o; if (C.races) raceAcc(w, I, i, (u32)o, n, ACC_ST, nullptr);
       u8* s = B.sinit.data() + o; for (u32 q = 0; q < n; q++) s[q] = 2; Pend p; p.lane = (u8)i;
       p.grp = w.cpCommitted[i]; p.off = (u32)o; p.size = (u8)n; p.I = &I; memset(p.data, 0, 16);
       if (sizes[i]) memcpy(p.data, P[i], sizes[i]); w.pend.push_back(p););
  if (C.stats) {
    bankStat(C, offs, m, n);
    C.shBytesSt += (u64)__builtin_popcount(m) * n;
  }
}
static void h_cpcommit(Warp& w, const Inst&, u32 m) {
  EACH(w.cpCommitted[i]++;);
}
static void h_cpwait(Warp& w, const Inst& I, u32 m) {
  cpComplete(w, m, (I.flag & F_ALLACC) ? ~0u : (u32)I.imm);
}
