// Conflicts between accesses: to shared memory within a block, to global memory between blocks.
#pragma once

#include <string>

#include "faults.h"

static inline bool ordered(Warp& w, u32 ut, u32 us, u32 t, bool& weak) {
  Block& B = *w.B;
  weak = false;
  if (us < B.fullStamp) return true;
  u32 wu = ut >> 5, wt = t >> 5;
  if (wu == wt) {
    if (us < w.warpFull) return true;
    if (!w.lanePair.empty() && us < w.lanePair[(ut & 31) * 32 + (t & 31)]) return true;
    if (us < w.collFull) weak = true;
    return false;
  }
  u32 nw = (u32)B.warps.size();
  return !B.warpPair.empty() && us < B.warpPair[wu * nw + wt];
}
static void raceHit(Warp& w, const Inst& I, int lane, u32 other, u32 off, const char* what,
                    bool weak, bool same) {
  Ctx& C = *w.C;
  u32 t = w.id * 32 + lane;
  bool intra = (other >> 5) == (t >> 5);
  int k;
  if (same) {
    C.raceSame++;
    return;
  }
  if (weak) {
    C.raceWeak++;
    k = 12;
  } else if (intra) {
    C.raceIntra++;
    k = 11;
  } else {
    C.raceInter++;
    k = 10;
  }
  char b[200];
  snprintf(b, sizeof b, "shared-memory race (%s%s): byte %u, other thread %u", what,
           weak    ? ", ordered only by a shuffle/vote"
           : intra ? ", same warp without __syncwarp"
                   : "",
           off, other);
  C.warnAt(w, I, lane, k, b);
}
static void raceOne(Warp& w, const Inst& I, int lane, RS& e, u32 off, int kind, bool same) {
  u32 t = w.id * 32 + lane, now = w.B->now;
  bool weak;
  if (kind == ACC_LD) {
    if (e.ws && e.wt != t && !ordered(w, e.wt, e.ws, t, weak))
      raceHit(w, I, lane, e.wt, off,
              e.wk == ACC_AT ? "read of atomically updated data" : "read after write", weak, false);
    if (e.as == now && (e.at >> 5) == (t >> 5)) {
      if (e.at != t) {
        e.am = 1;
        e.at = (u16)t;
      }
    } else {
      if (e.as && (e.at >> 5) != (t >> 5)) {
        e.bs = e.as;
        e.bt = e.at;
      }
      e.as = now;
      e.at = (u16)t;
      e.am = 0;
    }
    return;
  }
  if (e.ws && e.wt != t && !(kind == ACC_AT && e.wk == ACC_AT) && !ordered(w, e.wt, e.ws, t, weak))
    raceHit(w, I, lane, e.wt, off, "write after write", weak, same);
  if (e.as && (e.at != t || e.am)) {
    u32 u = e.at != t ? e.at : (t ^ 1);
    if (!ordered(w, u, e.as, t, weak)) raceHit(w, I, lane, u, off, "write after read", weak, same);
  }
  if (e.bs && e.bt != t && !ordered(w, e.bt, e.bs, t, weak))
    raceHit(w, I, lane, e.bt, off, "write after read", weak, same);
  e.ws = now;
  e.wt = (u16)t;
  e.wk = (u8)kind;
  e.as = e.bs = 0;
}
static void raceAcc(Warp& w, const Inst& I, int lane, u32 off, u32 sz, int kind, const u8* nv) {
  Block& B = *w.B;
  const u8* cur = B.smem.data();
  for (u32 o = off; o < off + sz;) {
    u32 wd = o >> 2;
    if (!(o & 3) && o + 4 <= off + sz && !B.split[wd]) {
      raceOne(w, I, lane, B.rsW[wd], o, kind, nv && !memcmp(nv + (o - off), cur + o, 4));
      o += 4;
    } else {
      if (!B.split[wd]) {
        B.split[wd] = 1;
        for (int k = 0; k < 4; k++) B.rsB[wd * 4 + k] = B.rsW[wd];
      }
      raceOne(w, I, lane, B.rsB[o], o, kind, nv && nv[o - off] == cur[o]);
      o++;
    }
  }
}

// global-memory conflict detector (optional): remembers the last plain writer / atomic writer of each 4-byte word of the launch
static void globalRace(Warp& w, const Inst& I, int lane, u64 a, u32 sz, int acc) {
  Ctx& C = *w.C;
  u64 idx = a >> VBITS;
  Range& r = (*C.ranges)[idx];
  if (!r.host || r.kparam) return;
  auto& sh = (*C.gshadow)[idx];
  if (sh.empty()) return;
  Block& B = *w.B;
  u64 t64 = ((u64)(B.bid[2] * (u64)C.grid[1] + B.bid[1]) * C.grid[0] + B.bid[0]) * B.nthreads +
            w.id * 32 + lane;
  u32 id = (u32)(t64 % 0x3fffffff) + 1;
  u64 off = (a & VMASK) - r.voff;
  u32 esz = 2;
  for (u64 o = off / esz; o <= (off + sz - 1) / esz; o++) {
    u32 tag = acc == ACC_AT ? (0x80000000u | id) : id;
    u32 old = sh[o].load(std::memory_order_relaxed);
    bool hit = false;
    if (acc == ACC_LD) {
      if (old && !(old & 0x80000000u) && old != id) {
        u32 ob = (old - 1) / B.nthreads, nb = (id - 1) / B.nthreads;
        hit = ob != nb;
      }
    } else {
      if (old && (old & 0x3fffffff) != id && !((old & 0x80000000u) && acc == ACC_AT)) {
        u32 ob = ((old & 0x3fffffff) - 1) / B.nthreads, nb = (id - 1) / B.nthreads;
        hit = ob != nb;
      }
      sh[o].store(tag, std::memory_order_relaxed);
    }
    if (hit) {
      C.graceN++;
      C.warnAt(w, I, lane, 20,
               std::string("global-memory conflict between blocks (") +
                   (acc == ACC_LD ? "read of data written by another block"
                                  : "two blocks write the same location") +
                   "): " + addrName(C, a));
      break;
    }
  }
}
