// The state of a launch: its context, blocks, warps, groups of lanes and frames.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "instruction.h"

// ---- virtual address space: every range lives in its own 2^40-byte window, so any overflow below 1 TB leaves the range
static const int VBITS = 40;
static const u64 VMASK = (1ull << VBITS) - 1;
static const u64 SHIDX = 0x8000, LOIDX = 0x8001;
struct Range {
  u8* host = nullptr;
  u64 len = 0, voff = 0;
  bool ro = false;
  std::string name;
  bool kparam = false;
};

struct RS {
  u32 ws;
  u16 wt;
  u8 wk, p0;
  u32 as;
  u16 at;
  u8 am, p1;
  u32 bs;
  u16 bt;
  u16 p2;
};
enum { ACC_LD = 0, ACC_ST = 1, ACC_AT = 2 };

struct MemStat {
  u64 req = 0, bytes = 0, sectors = 0, lines = 0;
};

struct Ctx {  // one per OS thread
  const Module* mod;
  const Prog* prog;
  std::vector<Range>* ranges;
  std::vector<u64> cw, ct;
  MemStat gld, gst, gat;
  u64 shReq = 0, shWave = 0, shIdeal = 0, shBytesLd = 0, shBytesSt = 0;
  u64 lcBytes = 0;
  std::vector<std::vector<u64>> bmR, bmW;
  u64 raceInter = 0, raceIntra = 0, raceWeak = 0, raceSame = 0, uninit = 0, pendRead = 0,
      divBar = 0, barPc = 0, collPc = 0, exitedLane = 0, pendExit = 0, hwarn = 0;
  std::map<std::pair<u32, int>, u64> wseen;
  std::vector<std::string> warn;
  std::string out;
  u64 clock = 0, winst = 0;
  u64 maxInst = 0;
  bool stats = true, races = true, chkUninit = true;
  u32 grid[3], block[3];
  std::atomic<bool>* stop = nullptr;
  u8* kparam = nullptr;
  u32 kparamIdx = 0;
  struct GR {
    u32 w = 0;
  };
  bool graces = false;
  std::vector<std::vector<std::atomic<u32>>>* gshadow = nullptr;
  u64 graceN = 0;
  u32 smemLimit = 0;
  void warnAt(Warp& w, const Inst& I, int lane, int kind, const std::string& m);
};

struct Frame {
  u8* R;
  u8* P;
  const FuncC* f;
  u32 retpc, depth, localBase, active;
  Frame* parent;
  std::vector<u8> mem;
  const CallSite* cs;
};
enum GState : u8 { G_RUN, G_BAR, G_COLL };
struct Group {
  u32 pc, mask;
  Frame* fr;
  u8 st;
  u32 barId;
  u64 last;
  bool defer;
};  // defer: at a barrier, let the warp's other lanes run first

struct Pend {
  u8 lane;
  u32 grp;
  u32 off;
  u8 size;
  u8 data[16];
  const Inst* I;
};
struct Warp {
  u8* R = nullptr;
  u8* P = nullptr;
  u32 alive = 0, init = 0;
  int id = 0;
  Block* B = nullptr;
  Ctx* C = nullptr;
  Frame* fr = nullptr;
  std::vector<Group> gs;
  std::vector<std::unique_ptr<Frame>> pool;
  std::vector<Frame*> freeF;
  u32 cc = 0;
  u32 pc = 0;
  std::vector<u8> local;
  u32 localCap = 0;
  std::vector<Pend> pend;
  u32 cpCommitted[32];
  u32 collMask[32];
  u32 warpFull = 0, collFull = 0;
  std::vector<u32> lanePair;
  u64 lastRun = 0;
  bool done = false;
  u32 nlocal = 0;
};
struct BarState {
  u32 arrived = 0, expect = 0;
  u32 pop = 0;
  bool all = true, any = false;
  u32 pc = 0;
  bool mixed = false;
  u32 warpsSeen[32];
};
struct Block {
  Ctx* C;
  u32 bid[3];
  u32 nthreads;
  std::vector<Warp> warps;
  std::vector<u8> smem, sinit;
  std::vector<RS> rsW, rsB;
  std::vector<u8> split;
  u32 smemSize = 0;
  u32 now = 1, fullStamp = 0;
  std::vector<u32> warpPair;
  BarState bar[16];
  u32 aliveThreads = 0;
};

template <class T>
static inline T* RG(Warp& w, u32 off) {
  return (T*)(w.R + off);
}
#define LANES(...)                                        \
  do {                                                    \
    if (m == w.alive) {                                   \
      _Pragma("GCC ivdep") for (int i = 0; i < 32; i++) { \
        __VA_ARGS__                                       \
      }                                                   \
    } else {                                              \
      for (u32 _t = m; _t; _t &= _t - 1) {                \
        int i = __builtin_ctz(_t);                        \
        __VA_ARGS__                                       \
      }                                                   \
    }                                                     \
  } while (0)
#define EACH(...)                        \
  do {                                   \
    for (u32 _t = m; _t; _t &= _t - 1) { \
      int i = __builtin_ctz(_t);         \
      __VA_ARGS__                        \
    }                                    \
  } while (0)
