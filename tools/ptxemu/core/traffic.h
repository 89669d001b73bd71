// What accesses cost: 32-byte sectors of global memory, wavefronts of shared memory.
#pragma once

#include "machine.h"

static void bankStat(Ctx& C, const u32* off, u32 m, u32 sz) {
  int per = sz <= 4 ? 32 : sz == 8 ? 16 : 8;
  u32 wpl = sz <= 4 ? 1 : sz / 4;
  C.shReq++;
  for (int g = 0; g < 32; g += per) {
    u32 gm = per == 32 ? m : (m >> g) & ((1u << per) - 1);
    if (!gm) continue;
    C.shIdeal++;
    u32 mn = ~0u, mx = 0;
    for (u32 t = gm; t; t &= t - 1) {
      u32 o = off[g + __builtin_ctz(t)] >> 2;
      mn = std::min(mn, o);
      mx = std::max(mx, o + wpl - 1);
    }
    if (mx - mn < 32) {
      C.shWave++;
      continue;
    }
    i8 head[32];
    memset(head, -1, 32);
    i8 nxt[64];
    u32 val[64];
    int n = 0;
    int cnt[32] = {0};
    int best = 1;
    for (u32 t = gm; t; t &= t - 1) {
      u32 o = off[g + __builtin_ctz(t)] >> 2;
      for (u32 k = 0; k < wpl; k++) {
        u32 wd = o + k, b = wd & 31;
        bool f = false;
        for (int q = head[b]; q >= 0; q = nxt[q])
          if (val[q] == wd) {
            f = true;
            break;
          }
        if (!f && n < 64) {
          val[n] = wd;
          nxt[n] = head[b];
          head[b] = (i8)n++;
          if (++cnt[b] > best) best = cnt[b];
        }
      }
    }
    C.shWave += best;
  }
}
static void sectorStat(Ctx& C, MemStat& S, const u64* A, u32 m, u32 sz, bool wr) {
  S.req++;
  S.bytes += (u64)__builtin_popcount(m) * sz;
  u64 prev = ~0ull, prevl = ~0ull;
  bool mono = true;
  u32 ns = 0, nl = 0;
  u64 buf[64];
  int nb = 0;
  for (u32 t = m; t; t &= t - 1) {
    u64 a = A[__builtin_ctz(t)];
    u64 s0 = a >> 5, s1 = (a + sz - 1) >> 5;
    for (u64 s = s0; s <= s1; s++) {
      if (s == prev) continue;
      if (prev != ~0ull && s < prev) mono = false;
      ns++;
      if ((s >> 2) != prevl) {
        nl++;
        prevl = s >> 2;
      }
      prev = s;
      if (nb < 64) buf[nb++] = s;
    }
  }
  if (!mono) {
    std::sort(buf, buf + nb);
    nb = (int)(std::unique(buf, buf + nb) - buf);
    ns = nb;
    nl = 0;
    prevl = ~0ull;
    for (int i = 0; i < nb; i++)
      if ((buf[i] >> 2) != prevl) {
        nl++;
        prevl = buf[i] >> 2;
      }
  }
  S.sectors += ns;
  S.lines += nl;
  for (int i = 0; i < nb; i++) {
    u64 idx = (buf[i] << 5) >> VBITS;
    if (idx >= C.ranges->size()) continue;
    auto& bm = wr ? C.bmW : C.bmR;
    auto& v = bm[idx];
    if (v.empty()) v.resize((((*C.ranges)[idx].len + (*C.ranges)[idx].voff) >> 11) + 2, 0);
    u64 s = buf[i] & (VMASK >> 5);
    if ((s >> 6) < v.size()) v[s >> 6] |= 1ull << (s & 63);
  }
}
