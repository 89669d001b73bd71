// Frames of functions: registers, parameters and local memory of a warp.
#pragma once

#include <algorithm>
#include <vector>

#include "matrix_handlers.h"

static u32 specVal(Warp& w, u32 id, int lane) {
  Ctx& C = *w.C;
  Block& B = *w.B;
  u32 t = w.id * 32 + lane;
  if (id >= 3 && id < 6) return C.block[id - 3];
  if (id >= 6 && id < 9) return B.bid[id - 6];
  if (id >= 9 && id < 12) return C.grid[id - 9];
  if (id >= 25 && id < 28) return B.bid[id - 25];
  if (id >= 28 && id < 31) return C.grid[id - 28];
  switch (id) {
    case 0:
      return t % C.block[0];
    case 1:
      return t / C.block[0] % C.block[1];
    case 2:
      return t / C.block[0] / C.block[1];
    case 12:
      return lane;
    case 13:
      return w.id;
    case 14:
      return (u32)B.warps.size();
    case 15:
      return 1u << lane;
    case 16:
      return (1u << lane) - 1;
    case 17:
      return (u32)((2ull << lane) - 1);
    case 18:
      return (u32) ~((2ull << lane) - 1);
    case 19:
      return ~((1u << lane) - 1);
    case 20:
      return 0;
    case 21:
      return 1;
    case 22:
      return 0;
    case 23:
      return B.smemSize - C.prog->staticShared;
    case 24:
    case 45:
      return B.smemSize;
    case 34:
    case 35:
    case 36:
    case 38:
      return 1;
    default:
      return 0;
  }
}
static Frame* newFrame(Warp& w, u32 fi, Frame* parent, u32 mask) {
  const FuncC* f = w.C->prog->funcs[fi].get();
  Frame* fr;
  if (!w.freeF.empty()) {
    fr = w.freeF.back();
    w.freeF.pop_back();
  } else {
    w.pool.emplace_back(new Frame());
    fr = w.pool.back().get();
  }
  size_t rb = (f->regBytes + 63) & ~63ull, pb = (size_t)f->pBytes * 32;
  if (fr->mem.size() < rb + pb + 128) fr->mem.resize(rb + pb + 128);
  fr->R = (u8*)(((uintptr_t)fr->mem.data() + 63) & ~(uintptr_t)63);
  fr->P = fr->R + rb;
  fr->f = f;
  fr->parent = parent;
  fr->depth = parent ? parent->depth + 1 : 0;
  fr->active = mask;
  fr->cs = nullptr;
  fr->retpc = 0;
  memcpy(fr->R, f->image.data(), f->regBytes);
  if (pb) memset(fr->P, 0xff, pb);
  fr->localBase = parent ? (parent->localBase + parent->f->localSize + 15) & ~15u : 0;
  u32 top = fr->localBase + f->localSize;
  if (top > w.localCap) {
    u32 nc = std::max(top + 64, w.localCap * 2);
    if (nc > (1u << 22))
      throw EmuError("stack",
                     "local stack overflow (recursion too deep?) in kernel " + w.C->prog->name);
    std::vector<u8> nl((size_t)nc * 32, 0xff);
    for (int l = 0; l < 32; l++)
      if (w.localCap) memcpy(&nl[(size_t)l * nc], &w.local[(size_t)l * w.localCap], w.localCap);
    w.local.swap(nl);
    w.localCap = nc;
  }
  for (auto& s : f->specs) {
    u32 id = s.id & 0xff;
    for (int l = 0; l < 32; l++) {
      u32 v = (s.id & 0x1000) ? fr->localBase + (u32)s.val : specVal(w, id, l);
      if (s.id & 0x100)
        ((u64*)(fr->R + s.off))[l] = v;
      else if (s.id & 0x200)
        ((u16*)(fr->R + s.off))[l] = (u16)v;
      else
        ((u32*)(fr->R + s.off))[l] = v;
    }
  }
  return fr;
}
static inline void setCur(Warp& w, Frame* f) {
  w.fr = f;
  w.R = f->R;
  w.P = f->P;
}
