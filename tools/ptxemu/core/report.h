// What a launch did, as JSON: instructions, traffic, diagnostics, messages.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "launch.h"

using Contexts = std::vector<std::unique_ptr<Ctx>>;

static std::string jesc(const std::string& s) {
  std::string r = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') {
      r += '\\';
      r += c;
    } else if ((unsigned char)c < 32) {
      char b[8];
      snprintf(b, sizeof b, "\\u%04x", c);
      r += b;
    } else
      r += c;
  }
  return r + "\"";
}

// How often each instruction ran, by warps and by threads.
struct Executions {
  std::vector<u64> warps, threads;
};

static Executions executions(const Outcome& outcome) {
  const size_t n = outcome.prog->code.size();
  Executions sums{std::vector<u64>(n, 0), std::vector<u64>(n, 0)};
  for (auto& c : outcome.contexts)
    for (size_t i = 0; i < n; i++) {
      sums.warps[i] += c->cw[i];
      sums.threads[i] += c->ct[i];
    }
  return sums;
}

static void reportInstructions(std::ostream& o, const Outcome& outcome, const Executions& sums) {
  const Prog* P = outcome.prog;
  const size_t n = P->code.size();
  const auto &pw = sums.warps, &pt = sums.threads;
  u64 wc[C_NUM] = {0}, tc[C_NUM] = {0}, fl[C_NUM] = {0}, wt = 0, tt = 0;
  for (size_t i = 0; i < n; i++) {
    const Inst& I = P->code[i];
    wc[I.cls] += pw[i];
    tc[I.cls] += pt[i];
    fl[I.cls] += pt[i] * I.flops;
    wt += pw[i];
    tt += pt[i];
  }
  o << "\"seconds\":" << outcome.seconds << ",\"warp_instructions\":" << wt
    << ",\"thread_instructions\":" << tt << ",\"static_instructions\":" << n
    << ",\"shared_bytes_per_block\":" << outcome.smem << ",\"static_shared\":" << P->staticShared;
  o << ",\"by_class\":{";
  bool f = true;
  for (int k = 0; k < C_NUM; k++)
    if (wc[k]) {
      if (!f) o << ",";
      f = false;
      o << "\"" << clsName[k] << "\":{\"warp\":" << wc[k] << ",\"thread\":" << tc[k] << "}";
    }
  o << "}";
  o << ",\"flops\":{\"f32\":" << fl[C_F32] << ",\"f64\":" << fl[C_F64] << ",\"half\":" << fl[C_HALF]
    << ",\"sfu\":" << fl[C_SFU] << ",\"mma\":" << fl[C_MMA] << "}";
}

static void reportMemory(std::ostream& o, const Handle& H, const Contexts& cs) {
  auto sum = [&](auto get) {
    u64 s = 0;
    for (auto& c : cs) s += get(*c);
    return s;
  };
  auto ms = [&](const char* nm, MemStat Ctx::* q) {
    o << ",\"" << nm << "\":{\"requests\":" << sum([&](Ctx& c) { return (c.*q).req; })
      << ",\"bytes\":" << sum([&](Ctx& c) { return (c.*q).bytes; })
      << ",\"sectors\":" << sum([&](Ctx& c) { return (c.*q).sectors; })
      << ",\"lines\":" << sum([&](Ctx& c) { return (c.*q).lines; }) << "}";
  };
  ms("global_load", &Ctx::gld);
  ms("global_store", &Ctx::gst);
  ms("global_atomic", &Ctx::gat);
  auto uniq = [&](bool wr) {
    u64 s = 0;
    size_t nr = H.ranges.size();
    for (size_t i = 0; i < nr; i++) {
      std::vector<u64> acc;
      for (auto& c : cs) {
        auto& v = wr ? c->bmW[i] : c->bmR[i];
        if (v.size() > acc.size()) acc.resize(v.size(), 0);
        for (size_t k = 0; k < v.size(); k++) acc[k] |= v[k];
      }
      for (u64 x : acc) s += __builtin_popcountll(x);
    }
    return s;
  };
  o << ",\"unique_read_sectors\":" << uniq(false) << ",\"unique_written_sectors\":" << uniq(true);
  o << ",\"shared\":{\"requests\":" << sum([](Ctx& c) { return c.shReq; })
    << ",\"wavefronts\":" << sum([](Ctx& c) { return c.shWave; })
    << ",\"ideal_wavefronts\":" << sum([](Ctx& c) { return c.shIdeal; })
    << ",\"load_bytes\":" << sum([](Ctx& c) { return c.shBytesLd; })
    << ",\"store_bytes\":" << sum([](Ctx& c) { return c.shBytesSt; }) << "}";
  o << ",\"local_bytes\":" << sum([](Ctx& c) { return c.lcBytes; });
  o << ",\"diagnostics\":{\"race_between_warps\":" << sum([](Ctx& c) { return c.raceInter; })
    << ",\"race_within_warp\":" << sum([](Ctx& c) { return c.raceIntra; })
    << ",\"race_within_warp_shuffle_ordered\":" << sum([](Ctx& c) { return c.raceWeak; })
    << ",\"race_same_value_writes\":" << sum([](Ctx& c) { return c.raceSame; })
    << ",\"uninitialised_shared_reads\":" << sum([](Ctx& c) { return c.uninit; })
    << ",\"reads_of_pending_cp_async\":" << sum([](Ctx& c) { return c.pendRead; })
    << ",\"exit_with_pending_cp_async\":" << sum([](Ctx& c) { return c.pendExit; })
    << ",\"diverged_barriers\":" << sum([](Ctx& c) { return c.divBar; })
    << ",\"barriers_at_different_pc\":" << sum([](Ctx& c) { return c.barPc; })
    << ",\"collectives_at_different_pc\":" << sum([](Ctx& c) { return c.collPc; })
    << ",\"shuffles_from_absent_lanes\":" << sum([](Ctx& c) { return c.hwarn; })
    << ",\"global_conflicts_between_blocks\":" << sum([](Ctx& c) { return c.graceN; }) << "}";
}

static void reportMessages(std::ostream& o, const Outcome& outcome) {
  const Prog* P = outcome.prog;
  const Contexts& cs = outcome.contexts;
  o << ",\"warnings\":[";
  bool f = true;
  for (auto& c : cs)
    for (auto& s : c->warn) {
      if (!f) o << ",";
      f = false;
      o << jesc(s);
    }
  o << "]";
  std::string pr;
  for (auto& c : cs) pr += c->out;
  o << ",\"printf\":" << jesc(pr);
  std::set<std::string> un;
  for (auto& I : P->code)
    if (I.kind == K_TRAP && P->messages[I.n].rfind("unsupported", 0) == 0)
      un.insert(P->messages[I.n] + " at PTX line " + std::to_string(I.line));
  o << ",\"unsupported\":[";
  f = true;
  for (auto& s : un) {
    if (!f) o << ",";
    f = false;
    o << jesc(s);
  }
  o << "]";
}

// The instructions that ran most often.
static void reportProfile(std::ostream& o, const Handle& H, const Outcome& outcome,
                          const Executions& sums, u32 most) {
  const Prog* P = outcome.prog;
  const size_t n = P->code.size();
  const auto &pw = sums.warps, &pt = sums.threads;
  std::vector<u32> ix(n);
  for (size_t i = 0; i < n; i++) ix[i] = (u32)i;
  std::sort(ix.begin(), ix.end(), [&](u32 a, u32 b) { return pw[a] > pw[b]; });
  o << ",\"profile\":[";
  for (size_t k = 0; k < std::min<size_t>(most, n); k++) {
    const Inst& I = P->code[ix[k]];
    if (k) o << ",";
    o << "{\"line\":" << I.line << ",\"src\":" << I.sline << ",\"warp\":" << pw[ix[k]]
      << ",\"thread\":" << pt[ix[k]] << ",\"text\":" << jesc(H.mod.srcLine(I.line)) << "}";
  }
  o << "]";
}

// All that a launch tells, as JSON.
static std::string report(const Handle& H, const Outcome& outcome, const Opts& op) {
  std::ostringstream o;
  o << "{";
  if (!outcome.errorKind.empty())
    o << "\"error_kind\":" << jesc(outcome.errorKind) << ",\"error\":" << jesc(outcome.error)
      << ",";
  if (outcome.prog && !outcome.contexts.empty()) {
    const Executions sums = executions(outcome);
    reportInstructions(o, outcome, sums);
    reportMemory(o, H, outcome.contexts);
    reportMessages(o, outcome);
    if (op.profile) reportProfile(o, H, outcome, sums, op.profile);
  } else {
    o << "\"none\":0";
  }
  o << "}";
  return o.str();
}
