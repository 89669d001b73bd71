// Runs the warps of a block in turn until all are done.
#pragma once

#include <algorithm>
#include <string>

#include "run_warp.h"

static void runBlock(Block& B, u32 bx, u32 by, u32 bz) {
  Ctx& C = *B.C;
  B.bid[0] = bx;
  B.bid[1] = by;
  B.bid[2] = bz;
  u32 nw = (B.nthreads + 31) / 32;
  B.aliveThreads = B.nthreads;
  B.now = 1;
  B.fullStamp = 0;
  B.warpPair.clear();
  for (auto& b : B.bar) {
    b = BarState();
    memset(b.warpsSeen, 0, sizeof b.warpsSeen);
  }
  std::fill(B.smem.begin(), B.smem.end(), 0xff);
  std::fill(B.sinit.begin(), B.sinit.end(), 0);
  if (C.races) {
    size_t nb = B.smem.size() / 4;
    memset((void*)B.rsW.data(), 0, nb * sizeof(RS));
    std::fill(B.split.begin(), B.split.end(), 0);
  }
  for (u32 i = 0; i < nw; i++) {
    Warp& w = B.warps[i];
    u32 cnt = std::min(32u, B.nthreads - i * 32);
    w.init = w.alive = cnt == 32 ? ~0u : (1u << cnt) - 1;
    w.id = (int)i;
    w.B = &B;
    w.C = &C;
    w.gs.clear();
    w.pend.clear();
    memset(w.cpCommitted, 0, sizeof w.cpCommitted);
    w.cc = 0;
    w.done = false;
    w.warpFull = w.collFull = 0;
    w.lanePair.clear();
    w.freeF.clear();
    for (auto& f : w.pool) w.freeF.push_back(f.get());
    if (w.localCap) std::fill(w.local.begin(), w.local.end(), 0xff);
    Group g{};
    g.fr = newFrame(w, 0, nullptr, w.alive);
    g.pc = C.prog->funcs[0]->entry;
    g.mask = w.alive;
    g.st = G_RUN;
    w.gs.push_back(g);
  }
  for (;;) {
    bool done = true, prog = false;
    for (auto& w : B.warps) {
      if (w.done) continue;
      if (runWarp(w, 200000)) prog = true;
      if (!w.done) done = false;
    }
    if (done) break;
    if (!prog) {
      // a barrier may have completed by exits of a later warp; look once more before calling it a deadlock
      bool again = false;
      for (auto& w : B.warps)
        for (auto& g : w.gs)
          if (g.st == G_RUN) again = true;
      if (again) continue;
      std::string m = "deadlock: no thread of the block can go on;";
      int shown = 0;
      Warp* fw = nullptr;
      u32 fpc = 0;
      int fl = 0;
      char b[200];
      for (auto& w : B.warps)
        for (auto& g : w.gs) {
          if (shown++ < 8) {
            const Inst& I = C.prog->code[g.pc];
            snprintf(b, sizeof b, " warp %d lanes %08x wait at PTX line %u (%s);", w.id, g.mask,
                     I.line, g.st == G_BAR ? "barrier" : "warp collective");
            m += b;
          }
          if (!fw) {
            fw = &w;
            fpc = g.pc;
            fl = __builtin_ctz(g.mask);
          }
        }
      fault(*fw, C.prog->code[fpc], fl, "deadlock", m);
    }
  }
}
