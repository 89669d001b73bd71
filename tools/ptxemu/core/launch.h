// Launches a kernel: the limits of a device, then its blocks, shared by OS threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "link.h"
#include "run_block.h"

// What one launch was asked for; the layout is that of `_Options` in library.py.
struct Opts {
  u32 grid[3], block[3];
  u32 dynShared, threads, smemLimit;
  u32 stats, races, uninit, graces, profile;
  u64 maxInst;
};

// What came of it.
struct Outcome {
  Prog* prog = nullptr;
  u32 smem = 0;  // bytes of shared memory per block
  double seconds = 0;
  std::vector<std::unique_ptr<Ctx>> contexts;  // one per OS thread
  std::mutex mutex;
  std::string errorKind, error;

  void fail(const std::string& kind, const std::string& message) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!errorKind.empty()) return;
    errorKind = kind;
    error = message;
  }
};

using GlobalShadow = std::vector<std::vector<std::atomic<u32>>>;

// Checks the launch against the limits of a device, and returns the number of threads of a block.
static u64 checkLimits(Handle& H, const std::string& name, u32 nparams, const Opts& op,
                       Outcome& outcome) {
  Prog* P = outcome.prog = link(H, name);
  if (nparams != P->paramBytes)
    throw EmuError("args", "kernel " + name + " takes " + std::to_string(P->paramBytes) +
                               " parameter bytes, got " + std::to_string(nparams));
  u64 nt = (u64)op.block[0] * op.block[1] * op.block[2];
  if (nt < 1 || nt > 1024 || op.block[2] > 64) throw EmuError("launch", "invalid block size");
  auto& fd = H.mod.funcs[name];
  if (fd.maxntid[0] && nt > (u64)fd.maxntid[0] * fd.maxntid[1] * fd.maxntid[2])
    throw EmuError("launch", "block exceeds the kernel's __launch_bounds__");
  u64 nb = (u64)op.grid[0] * op.grid[1] * op.grid[2];
  if (!nb || op.grid[1] > 65535 || op.grid[2] > 65535)
    throw EmuError("launch", "invalid grid size");
  outcome.smem = P->staticShared + op.dynShared;
  if (P->staticShared > 49152) throw EmuError("launch", "static shared memory exceeds 48 KiB");
  if (outcome.smem > op.smemLimit)
    throw EmuError("launch", "shared memory " + std::to_string(outcome.smem) +
                                 " exceeds the limit " + std::to_string(op.smemLimit));
  return nt;
}

static std::unique_ptr<Ctx> newContext(Handle& H, Prog* P, const Opts& op, u32 smem) {
  auto C = std::make_unique<Ctx>();
  C->mod = &H.mod;
  C->prog = P;
  C->ranges = &H.ranges;
  C->cw.assign(P->code.size() + 1, 0);
  C->ct.assign(P->code.size() + 1, 0);
  C->bmR.resize(H.ranges.size());
  C->bmW.resize(H.ranges.size());
  for (int k = 0; k < 3; k++) {
    C->grid[k] = op.grid[k];
    C->block[k] = op.block[k];
  }
  C->stats = op.stats;
  C->races = op.races && smem;
  C->chkUninit = op.uninit;
  C->maxInst = op.maxInst;
  C->graces = op.graces;
  return C;
}

// Runs blocks until none is left or another thread has failed.
static void runBlocks(Ctx* C, u64 nt, u64 nb, std::atomic<u64>& next, std::atomic<bool>& stop,
                      Outcome& outcome) {
  try {
    Block B;
    B.C = C;
    B.nthreads = (u32)nt;
    B.warps = std::vector<Warp>((nt + 31) / 32);
    B.smemSize = outcome.smem;
    size_t sb = ((size_t)outcome.smem + 31) & ~15ull;
    B.smem.resize(sb);
    B.sinit.resize(sb);
    if (C->races) {
      B.rsW.resize(sb / 4);
      B.rsB.resize(sb);
      B.split.resize(sb / 4);
    }
    for (;;) {
      u64 k = next.fetch_add(1);
      if (k >= nb || stop.load()) break;
      runBlock(B, (u32)(k % C->grid[0]), (u32)(k / C->grid[0] % C->grid[1]),
               (u32)(k / C->grid[0] / C->grid[1]));
    }
  } catch (EmuError& e) {
    stop = true;
    if (e.kind != "stopped") outcome.fail(e.kind, e.what());
  } catch (std::exception& e) {
    stop = true;
    outcome.fail("internal", e.what());
  }
}

static void launch(Handle& H, const std::string& name, const u8* params, u32 nparams,
                   const Opts& op, Outcome& outcome) {
  const u64 nt = checkLimits(H, name, nparams, op, outcome);
  const u64 nb = (u64)op.grid[0] * op.grid[1] * op.grid[2];
  std::vector<u8> kp(std::max<u32>(nparams, 1) + 16, 0);
  memcpy(kp.data(), params, nparams);
  Range& r1 = H.ranges[1];
  r1.host = kp.data();
  r1.len = nparams;
  r1.ro = true;
  r1.name = "kernel parameters";
  r1.kparam = true;
  std::atomic<u64> next{0};
  std::atomic<bool> stop{false};
  GlobalShadow gsh;
  if (op.graces) {
    gsh.resize(H.ranges.size());
    for (size_t i = H.baseRanges; i < H.ranges.size(); i++)
      gsh[i] = std::vector<std::atomic<u32>>(H.ranges[i].len / 2 + 2);
  }
  const u32 T = (u32)std::min<u64>(std::max(1u, op.threads), nb);
  const auto begin = std::chrono::steady_clock::now();
  for (u32 i = 0; i < T; i++) {
    auto C = newContext(H, outcome.prog, op, outcome.smem);
    C->stop = &stop;
    C->kparam = kp.data();
    C->gshadow = &gsh;
    outcome.contexts.push_back(std::move(C));
  }
  auto work = [&](Ctx* C) { runBlocks(C, nt, nb, next, stop, outcome); };
  if (T == 1) {
    work(outcome.contexts[0].get());
  } else {
    std::vector<std::thread> team;
    for (auto& C : outcome.contexts) team.emplace_back(work, C.get());
    for (auto& thread : team) thread.join();
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  r1.host = nullptr;
  r1.len = 0;
}
