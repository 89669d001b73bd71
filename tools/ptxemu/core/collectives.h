// What warps and blocks do together: shuffles, votes, matches, reductions, barriers.
#pragma once

#include <algorithm>
#include <vector>

#include "frames.h"
#include "operands.h"

static void warpSync(Warp& w, u32 U, bool mem) {
  Block& B = *w.B;
  if (!w.C->races) return;
  B.now++;
  if (!mem) {
    if (U == w.alive) w.collFull = B.now;
    return;
  }
  if (U == w.alive) {
    w.warpFull = B.now;
    return;
  }
  if (w.lanePair.empty()) w.lanePair.assign(1024, 0);
  for (u32 a = U; a; a &= a - 1)
    for (u32 b = U; b; b &= b - 1) w.lanePair[__builtin_ctz(a) * 32 + __builtin_ctz(b)] = B.now;
}
struct CollIO {
  u32 a[32], b[32], c[32], out[32];
  u64 a64[32];
  u32 pred = 0, outp = 0;
};
static void collGather(Warp& w, const Inst& I, u32 m, CollIO& io) {
  switch (I.op) {
    case CO_SHFL: {
      const u32 *a = RG<u32>(w, I.a), *b = RG<u32>(w, I.b), *c = RG<u32>(w, I.c);
      EACH(io.a[i] = a[i]; io.b[i] = b[i]; io.c[i] = c[i];);
      break;
    }
    case CO_VOTE: {
      u32 pv = *RG<u32>(w, I.a);
      if (I.flag & F_NEGC) pv = ~pv;
      io.pred |= pv & m;
      break;
    }
    case CO_MATCH:
      if (I.rs == 8) {
        const u64* a = RG<u64>(w, I.a);
        EACH(io.a64[i] = a[i];);
      } else {
        const u32* a = RG<u32>(w, I.a);
        EACH(io.a64[i] = a[i];);
      }
      break;
    case CO_REDUX: {
      const u32* a = RG<u32>(w, I.a);
      EACH(io.a[i] = a[i];);
      break;
    }
    default:
      break;
  }
}
static void collCompute(Warp& w, const Inst& I, u32 U, u32 M, CollIO& io) {
  u32 m = U;
  switch (I.op) {
    case CO_SHFL:
      EACH(
          u32 bv = io.b[i] & 31; u32 cl = io.c[i] & 31; u32 seg = (io.c[i] >> 8) & 31; int lane = i;
          int maxL = (lane & seg) | (cl & ~seg & 31); int minL = lane & seg; int j; bool pv;
          switch (I.n) {
            case 0:
              j = lane - (int)bv;
              pv = j >= maxL;
              break;
            case 1:
              j = lane + (int)bv;
              pv = j <= maxL;
              break;
            case 2:
              j = lane ^ (int)bv;
              pv = j <= maxL;
              break;
            default:
              j = minL | (int)(bv & ~seg);
              pv = j <= maxL;
          } if (!pv) j = lane;
          if (!(U >> j & 1)) {
            io.out[i] = 0xffffffffu;
            w.C->hwarn++;
            char bf[96];
            snprintf(bf, sizeof bf, "shfl reads lane %d, which does not take part: undefined value",
                     j);
            w.C->warnAt(w, I, i, 30, bf);
          } else io.out[i] = io.a[j];
          if (pv) io.outp |= 1u << i;);
      break;
    case CO_VOTE: {
      u32 pv = io.pred & U;
      u32 r = I.n == 0 ? (pv == U) : I.n == 1 ? (pv != 0) : I.n == 2 ? (pv == 0 || pv == U) : 0;
      if (I.n == 3) {
        EACH(io.out[i] = pv;);
      } else if (r)
        io.outp = U;
      break;
    }
    case CO_MATCH:
      if (I.n) {
        bool all = true;
        u64 f = io.a64[__builtin_ctz(U)];
        EACH(all &= io.a64[i] == f;);
        EACH(io.out[i] = all ? M & U : 0;);
        if (all) io.outp = U;
      } else
        EACH(u32 r = 0; for (u32 t = U; t; t &= t - 1) {
          int k = __builtin_ctz(t);
          if (io.a64[k] == io.a64[i]) r |= 1u << k;
        } io.out[i] = r;);
      break;
    case CO_REDUX: {
      bool first = true;
      u32 acc = 0;
      EACH(if (first) {
        acc = io.a[i];
        first = false;
      } else acc = (u32)atomNew(I.n, (Ty)I.ty, acc, io.a[i], 0););
      EACH(io.out[i] = acc;);
      break;
    }
    case CO_ELECT: {
      u32 ld = __builtin_ctz(U);
      EACH(io.out[i] = ld;);
      io.outp = 1u << ld;
      break;
    }
    default:
      break;
  }
  if (I.op == CO_BARWARP)
    warpSync(w, U, true);
  else
    warpSync(w, U, false);
}
static void collScatter(Warp& w, const Inst& I, u32 m, CollIO& io) {
  if (I.op == CO_BARWARP) return;
  bool predOnly = I.op == CO_VOTE && I.n != 3;
  if (predOnly) {
    if (I.d != SINK) {
      u32& d = *RG<u32>(w, I.d);
      d = (d & ~m) | (io.outp & m);
    }
    return;
  }
  if (I.d != SINK) {
    u32* d = RG<u32>(w, I.d);
    EACH(d[i] = io.out[i];);
  }
  if ((I.op == CO_SHFL || I.op == CO_MATCH || I.op == CO_ELECT) && I.target != SINK) {
    u32& d = *RG<u32>(w, I.target);
    d = (d & ~m) | (io.outp & m);
  }
}
static void collExec(Warp& w, const Inst& I, u32 U, u32 M) {
  if (I.op == CO_WARPOP) {
    if (U != 0xffffffffu)
      fault(w, I, __builtin_ctz(U), "collective",
            "whole-warp instruction executed by a partial warp");
    I.fn(w, I, U);
    warpSync(w, U, false);
    return;
  }
  CollIO io;
  collGather(w, I, U, io);
  collCompute(w, I, U, M, io);
  collScatter(w, I, U, io);
}
// tries to complete collectives among waiting groups
static bool collTry(Warp& w) {
  const Inst* code = w.C->prog->code.data();
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    for (size_t x = 0; x < w.gs.size() && !again; x++) {
      if (w.gs[x].st != G_COLL) continue;
      const Inst& I = code[w.gs[x].pc];
      u32 M = w.collMask[__builtin_ctz(w.gs[x].mask)];
      u32 U = 0;
      bool mixed = false;
      for (auto& g : w.gs)
        if (g.st == G_COLL && code[g.pc].sig == I.sig && w.collMask[__builtin_ctz(g.mask)] == M) {
          U |= g.mask;
          if (g.pc != w.gs[x].pc || g.fr != w.gs[x].fr) mixed = true;
        }
      if (U != (M & w.alive)) continue;
      u32 pc = w.gs[x].pc;
      Frame* fr = w.gs[x].fr;
      if (!mixed) {
        size_t o = 0;
        for (size_t k = 0; k < w.gs.size(); k++)
          if (!(w.gs[k].st == G_COLL && (w.gs[k].mask & U))) w.gs[o++] = w.gs[k];
        w.gs.resize(o);
        setCur(w, fr);
        w.pc = pc;
        collExec(w, I, U, M);
        Group g{};
        g.pc = pc + 1;
        g.mask = U;
        g.fr = fr;
        g.st = G_RUN;
        w.gs.push_back(g);
      } else {
        if (I.op == CO_WARPOP)
          fault(w, I, __builtin_ctz(U), "collective",
                "lanes reached a whole-warp instruction at different places");
        w.C->collPc++;
        w.C->warnAt(w, I, __builtin_ctz(U), 31,
                    "lanes meet in a warp collective from different code positions");
        CollIO io;
        for (auto& g : w.gs)
          if (g.st == G_COLL && (g.mask & U)) {
            setCur(w, g.fr);
            collGather(w, code[g.pc], g.mask, io);
          }
        collCompute(w, I, U, M, io);
        for (auto& g : w.gs)
          if (g.st == G_COLL && (g.mask & U)) {
            setCur(w, g.fr);
            collScatter(w, code[g.pc], g.mask, io);
            g.st = G_RUN;
            g.pc++;
          }
      }
      again = any = true;
    }
  }
  return any;
}
static void barCheck(Block& B, int id) {
  BarState& b = B.bar[id];
  if (!b.arrived) return;
  u32 need = b.expect ? b.expect : B.aliveThreads;
  if (b.arrived < need) return;
  const Inst* code = B.C->prog->code.data();
  u32 nw = (u32)B.warps.size();
  u32 parts = 0;
  for (auto& w : B.warps) {
    bool part = b.warpsSeen[w.id];
    parts += part;
    for (auto& g : w.gs)
      if (g.st == G_BAR && g.barId == (u32)id) {
        const Inst& I = code[g.pc];
        if (I.op == 2 && I.d != SINK) {
          u32 m = g.mask;
          u8* R = g.fr->R;
          if (I.rs == 0) {
            u32* d = (u32*)(R + I.d);
            EACH(d[i] = b.pop;);
          } else {
            u32& d = *(u32*)(R + I.d);
            bool v = I.rs == 1 ? b.all : b.any;
            d = (d & ~m) | (v ? m : 0);
          }
        }
        g.st = G_RUN;
        g.pc++;
      }
  }
  B.now++;
  if (b.arrived >= B.aliveThreads)
    B.fullStamp = B.now;
  else {
    if (B.warpPair.empty()) B.warpPair.assign((size_t)nw * nw, 0);
    for (u32 i = 0; i < nw; i++)
      if (b.warpsSeen[i]) {
        B.warps[i].warpFull = B.now;
        for (u32 j = 0; j < nw; j++)
          if (b.warpsSeen[j]) B.warpPair[i * nw + j] = B.now;
      }
  }
  b = BarState();
  memset(b.warpsSeen, 0, sizeof b.warpsSeen);
}
static void barArrive(Warp& w, const Inst& I, u32 m, u32 pc) {
  Block& B = *w.B;
  u32 id = RG<u32>(w, I.a)[__builtin_ctz(m)];
  if (id > 15) fault(w, I, __builtin_ctz(m), "barrier", "barrier number above 15");
  BarState& b = B.bar[id];
  u32 cnt = I.b == SINK ? 0 : RG<u32>(w, I.b)[__builtin_ctz(m)];
  if (!b.arrived) {
    b.pc = pc;
    b.expect = cnt;
  } else {
    if (b.pc != pc && I.op != 1 && !cnt) {
      w.C->barPc++;
      w.C->warnAt(w, I, __builtin_ctz(m), 41,
                  "threads of one block meet at barriers in different code positions");
    }
    if (cnt) b.expect = cnt;
  }
  if ((I.flag & F_ALIGNED) && m != w.alive) {
    w.C->divBar++;
    w.C->warnAt(w, I, __builtin_ctz(m), 40,
                "barrier executed by a diverged warp (undefined for the .aligned form)");
  }
  b.arrived += cnt && m == w.alive ? 32 : (u32)__builtin_popcount(m);
  b.warpsSeen[w.id] = 1;
  if (I.op == 2) {
    u32 pv = *RG<u32>(w, I.c);
    if (I.flag & F_NEGC) pv = ~pv;
    pv &= m;
    b.pop += __builtin_popcount(pv);
    b.any |= pv != 0;
    b.all &= pv == m;
  }
}
