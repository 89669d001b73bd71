// Runs a warp: chooses a group of lanes, executes it, and lets lanes part and meet.
#pragma once

#include <algorithm>
#include <vector>

#include "collectives.h"
#include "device_calls.h"

static void lanesExit(Warp& w, u32 m) {
  Block& B = *w.B;
  if (!w.pend.empty()) {
    for (auto& p : w.pend)
      if (m >> p.lane & 1) {
        w.C->pendExit++;
        w.C->warnAt(w, *p.I, p.lane, 3, "thread exits with a cp.async not waited for");
        break;
      }
    cpComplete(w, m, ~0u);
  }
  w.alive &= ~m;
  B.aliveThreads -= __builtin_popcount(m);
}

// Merges groups at the same place, then chooses one that can run: the deepest call first, then the lowest
// position; with `fair`, the one that has waited longest. -1 if all wait; `anyColl`: some for a collective.
static int chooseGroup(Warp& w, bool fair, bool& anyColl) {
  int best = -1;
  size_t n = w.gs.size();
  for (size_t i = 0; i < n; i++) {
    if (w.gs[i].st == G_COLL) anyColl = true;
    if (w.gs[i].st != G_RUN) continue;
    for (size_t j = i + 1; j < n;) {
      if (w.gs[j].st == G_RUN && w.gs[j].pc == w.gs[i].pc && w.gs[j].fr == w.gs[i].fr) {
        w.gs[i].mask |= w.gs[j].mask;
        w.gs[i].defer = false;
        w.gs[j] = w.gs[n - 1];
        w.gs.pop_back();
        n--;
      } else
        j++;
    }
    if (best < 0) {
      best = (int)i;
      continue;
    }
    Group &a = w.gs[i], &b = w.gs[best];
    bool lt = fair ? a.last < b.last
              : a.defer != b.defer
                  ? b.defer
                  : (a.fr->depth != b.fr->depth ? a.fr->depth > b.fr->depth : a.pc < b.pc);
    if (lt) best = (int)i;
  }
  return best;
}

// brx.idx: one group for each target that lanes of `m` take; `rest` goes on.
static void branchByIndex(Warp& w, const Inst& I, int best, u32 m, u32 rest, u32 pc) {
  const auto& tab = w.C->prog->tables[I.n];
  const u32* ix = RG<u32>(w, I.a);
  u32 left = m;
  std::vector<Group> add;
  Group base = w.gs[best];
  while (left) {
    int l = __builtin_ctz(left);
    u32 v = ix[l];
    if (v >= tab.size()) fault(w, I, l, "brx", "brx.idx index outside its table");
    u32 s = 0;
    for (u32 t = left; t; t &= t - 1) {
      int k = __builtin_ctz(t);
      if (ix[k] == v) s |= 1u << k;
    }
    Group h = base;
    h.pc = tab[v];
    h.mask = s;
    add.push_back(h);
    left &= ~s;
  }
  if (rest) {
    Group h = base;
    h.pc = pc + 1;
    h.mask = rest;
    add.push_back(h);
  }
  w.gs[best] = add[0];
  w.gs.insert(w.gs.end(), add.begin() + 1, add.end());
}

// ret: results go to the caller's frame, where lanes of `m` go on; `rest` goes on here.
static void returnToCaller(Warp& w, int best, u32 m, u32 rest, u32 pc) {
  Group* g = &w.gs[best];
  Frame* fr = g->fr;
  Frame* par = fr->parent;
  const CallSite* cs = fr->cs;
  for (size_t k = 0; k < cs->rets.size() && k < fr->f->rets.size(); k++) {
    u32 dsz = cs->rets[k].second, ssz = std::max(8u, (fr->f->rets[k].size + 7) / 8 * 8),
        cp = std::min(dsz, ssz);
    for (u32 t = m; t; t &= t - 1) {
      int i = __builtin_ctz(t);
      memcpy(par->P + (size_t)cs->rets[k].first * 32 + (size_t)i * dsz,
             fr->P + (size_t)fr->f->rets[k].off * 32 + (size_t)i * ssz, cp);
    }
  }
  u32 rp = fr->retpc;
  fr->active &= ~m;
  if (rest) {
    g->pc = pc + 1;
    g->mask = rest;
    Group h = *g;
    h.pc = rp;
    h.mask = m;
    h.fr = par;
    w.gs.push_back(h);
  } else {
    g->pc = rp;
    g->mask = m;
    g->fr = par;
  }
  if (!fr->active) w.freeF.push_back(fr);
}

// A collective that not all its lanes have reached: one waiting group for each member mask.
static void waitForCollective(Warp& w, const Inst& I, int best, u32 m, u32 pc) {
  const bool full = I.e == SINK;
  const u32 M0 = full ? 0xffffffffu : RG<u32>(w, I.e)[__builtin_ctz(m)];
  u32 left = m;
  std::vector<Group> add;
  Group base = w.gs[best];
  base.pc = pc;
  base.st = G_COLL;
  while (left) {
    int l = __builtin_ctz(left);
    u32 Mv = full ? M0 : RG<u32>(w, I.e)[l];
    u32 s = 0;
    for (u32 t = left; t; t &= t - 1) {
      int k = __builtin_ctz(t);
      if ((full ? M0 : RG<u32>(w, I.e)[k]) == Mv) s |= 1u << k;
    }
    if ((Mv & s) != s)
      fault(w, I, __builtin_ctz(s & ~Mv), "collective",
            "thread executes a warp collective without being in its member mask");
    for (u32 t = s; t; t &= t - 1) w.collMask[__builtin_ctz(t)] = Mv;
    Group h = base;
    h.mask = s;
    add.push_back(h);
    left &= ~s;
  }
  w.gs[best] = add[0];
  w.gs.insert(w.gs.end(), add.begin() + 1, add.end());
}

// Up to where a group may run on after a jump to `pc`: 0 if another group of its frame is there or before,
// else the lowest position of one.
static u32 nextPosition(const Warp& w, int best, u32 pc) {
  u32 limit = ~0u;
  for (size_t i = 0; i < w.gs.size(); i++)
    if ((int)i != best && w.gs[i].st == G_RUN && w.gs[i].fr == w.gs[best].fr) {
      if (w.gs[i].pc <= pc) return 0;
      limit = std::min(limit, w.gs[i].pc);
    }
  return limit;
}

// Runs a warp for about `slice` instructions; whether it got anywhere.
static bool runWarp(Warp& w, u64 slice) {
  Ctx& C = *w.C;
  Block& B = *w.B;
  const Inst* code = C.prog->code.data();
  u64* cw = C.cw.data();
  u64* ct = C.ct.data();
  u64 used = 0;
  bool progress = false, fair = false;
  for (;;) {
    bool anyColl = false;
    const int best = chooseGroup(w, fair, anyColl);
    const size_t n = w.gs.size();
    if (best < 0) {
      if (anyColl && collTry(w)) continue;
      if (w.gs.empty()) w.done = true;
      return progress;
    }
    if (used > slice) return progress;
    u32 limit = ~0u;
    bool others = false;
    const bool fairRun = fair;
    for (size_t i = 0; i < n; i++)
      if ((int)i != best && w.gs[i].st == G_RUN) {
        others = true;
        if (w.gs[i].fr == w.gs[best].fr && w.gs[i].pc > w.gs[best].pc)
          limit = std::min(limit, w.gs[i].pc);
      }
    fair = false;
    Group* g = &w.gs[best];
    g->last = ++w.lastRun;
    const bool deferred = g->defer;
    g->defer = false;
    setCur(w, g->fr);
    u32 pc = g->pc, mask = g->mask;
    u64 budget = others ? 20000 : slice + 1;
    for (;;) {
      if (pc >= limit) {
        g->pc = pc;
        g->mask = mask;
        break;
      }
      const Inst& I = code[pc];
      u32 m = mask;
      if (I.guard != NOG) {
        u32 pv = *RG<u32>(w, I.guard);
        m &= I.gneg ? ~pv : pv;
      }
      cw[pc]++;
      ct[pc] += (u64)__builtin_popcount(m);
      progress = true;
      used++;
      C.winst++;
      if (I.kind == K_ALU) {
        if (m) I.fn(w, I, m);
        pc++;
        if (--budget == 0) {
          fair = others;
          g->pc = pc;
          g->mask = mask;
          break;
        }
        continue;
      }
      if (__builtin_expect((C.winst & 0xfff) == 0, 0)) {
        if (C.maxInst && C.winst > C.maxInst)
          fault(w, I, __builtin_ctz(mask), "limit", "instruction limit reached (endless loop?)");
        if (C.stop && C.stop->load(std::memory_order_relaxed)) throw EmuError("stopped", "stopped");
      }
      if (budget) budget--;
      if (I.kind == K_BRA) {
        u32 nt = mask & ~m;
        if (!nt) {
          pc = I.target;
        } else if (!m)
          pc++;
        else {
          g->pc = pc + 1;
          g->mask = nt;
          Group h = *g;
          h.pc = I.target;
          h.mask = m;
          w.gs.push_back(h);
          break;
        }
        if (budget == 0) {
          fair = others;
          g->pc = pc;
          g->mask = mask;
          budget = 1;
          break;
        }
        // a jump below another group's position keeps this group first; otherwise re-evaluate at the next check
        if ((limit != ~0u || others) && !fairRun) limit = nextPosition(w, best, pc);
        continue;
      }
      if (!m) {
        pc++;
        continue;
      }
      u32 rest = mask & ~m;
      w.pc = pc;
      auto splitRest = [&]() {
        if (rest) {
          Group h = *g;
          h.pc = pc + 1;
          h.mask = rest;
          h.st = G_RUN;
          w.gs.push_back(h);
          g = &w.gs[best];
        }
      };
      switch (I.kind) {
        case K_BRX:
          branchByIndex(w, I, best, m, rest, pc);
          goto resched;
        case K_EXIT: {
          lanesExit(w, m);
          if (rest) {
            g->pc = pc + 1;
            g->mask = rest;
          } else {
            w.gs[best] = w.gs.back();
            w.gs.pop_back();
          }
          if (!w.gs.empty()) collTry(w);
          for (int b = 0; b < 16; b++)
            if (B.bar[b].arrived && !B.bar[b].expect) barCheck(B, b);
          goto resched;
        }
        case K_RET:
          returnToCaller(w, best, m, rest, pc);
          goto resched;
        case K_CALL: {
          const CallSite& cs = C.prog->calls[I.n];
          if (cs.builtin) {
            builtinCall(w, I, cs, m);
            pc++;
            continue;
          }
          Frame* par = g->fr;
          splitRest();
          Frame* fr = newFrame(w, cs.func, par, m);
          fr->retpc = pc + 1;
          fr->cs = &cs;
          for (size_t k = 0; k < cs.args.size() && k < fr->f->params.size(); k++) {
            u32 ssz = cs.args[k].second, dsz = std::max(8u, (fr->f->params[k].size + 7) / 8 * 8),
                cp = std::min(dsz, ssz);
            for (u32 t = m; t; t &= t - 1) {
              int i = __builtin_ctz(t);
              memcpy(fr->P + (size_t)fr->f->params[k].off * 32 + (size_t)i * dsz,
                     par->P + (size_t)cs.args[k].first * 32 + (size_t)i * ssz, cp);
            }
          }
          g->pc = fr->f->entry;
          g->mask = m;
          g->fr = fr;
          goto resched;
        }
        case K_BAR: {
          if (m != w.alive && !rest &&
              !deferred) {  // lanes still on their way here (or to exit) go first
            bool more = false;
            for (size_t i = 0; i < w.gs.size(); i++) more |= (int)i != best && w.gs[i].st == G_RUN;
            if (more) {
              cw[pc]--;
              ct[pc] -= (u64)__builtin_popcount(m);
              g->pc = pc;
              g->mask = mask;
              g->defer = true;
              goto resched;
            }
          }
          barArrive(w, I, m, pc);
          u32 id = RG<u32>(w, I.a)[__builtin_ctz(m)];
          if (I.op == 1) {
            barCheck(B, (int)id);
            pc++;
            continue;
          }
          splitRest();
          g->pc = pc;
          g->mask = m;
          g->st = G_BAR;
          g->barId = id;
          barCheck(B, (int)id);
          goto resched;
        }
        case K_COLL: {
          bool full = I.e == SINK;
          u32 M0 = full ? 0xffffffffu : RG<u32>(w, I.e)[__builtin_ctz(m)];
          bool uni = true;
          if (!full) {
            const u32* e = RG<u32>(w, I.e);
            for (u32 t = m; t; t &= t - 1) uni &= e[__builtin_ctz(t)] == M0;
          }
          if (uni && (M0 & w.alive) == m) {
            collExec(w, I, m, M0);
            pc++;
            continue;
          }
          splitRest();
          waitForCollective(w, I, best, m, pc);
          collTry(w);
          goto resched;
        }
        default:
          fault(w, I, __builtin_ctz(m), "trap", C.prog->messages[I.n]);
      }
    }
  resched:;
  }
}
