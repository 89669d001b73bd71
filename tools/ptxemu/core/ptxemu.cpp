// The C interface, which library.py calls.
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>

#include "report.h"

#define EXPORT __attribute__((visibility("default")))

extern "C" {
EXPORT Handle* emu_load(const char* text, char* err, int errlen) {
  try {
    auto H = std::make_unique<Handle>();
    H->mod.parse(text);
    H->ranges.resize(2);
    for (auto& kv : H->mod.vars) {
      Var& v = kv.second;
      if (v.space != SP_GLOBAL && v.space != SP_CONST) continue;
      v.addr = (u64)H->ranges.size() << VBITS;
      H->store.emplace_back(std::max<u64>(v.bytes, 1), 0);
      auto& s = H->store.back();
      if (v.hasInit) memcpy(s.data(), v.init.data(), std::min<u64>(v.init.size(), v.bytes));
      Range r;
      r.host = s.data();
      r.len = v.bytes;
      r.ro = v.space == SP_CONST;
      r.name = "module variable " + v.name;
      H->ranges.push_back(r);
    }
    size_t k = 0;
    for (auto& kv : H->mod.vars) {
      Var& v = kv.second;
      if (v.space != SP_GLOBAL && v.space != SP_CONST) continue;
      for (auto& r : v.rels) {
        auto t = H->mod.vars.find(r.sym);
        if (t == H->mod.vars.end())
          throw EmuError("parse", "initialiser refers to unknown symbol " + r.sym);
        u64 a = t->second.addr + r.add;
        memcpy(&H->store[k][r.off], &a, r.size);
      }
      k++;
    }
    H->baseRanges = H->ranges.size();
    return H.release();
  } catch (std::exception& e) {
    snprintf(err, errlen, "%s", e.what());
    return nullptr;
  }
}
EXPORT void emu_free(Handle* h) {
  delete h;
}
EXPORT const char* emu_info(Handle* H) {
  std::ostringstream o;
  o << "{\"version\":" << jesc(H->mod.version) << ",\"target\":" << jesc(H->mod.target)
    << ",\"kernels\":[";
  bool first = true;
  for (auto& n : H->mod.order) {
    auto& f = H->mod.funcs[n];
    if (!f.entry) continue;
    if (!first) o << ",";
    first = false;
    o << "{\"name\":" << jesc(n) << ",\"params\":[";
    u32 off = 0;
    bool fp = true;
    for (auto& p : f.params) {
      off = (off + p.align - 1) / p.align * p.align;
      if (!fp) o << ",";
      fp = false;
      o << "{\"offset\":" << off << ",\"size\":" << p.size << ",\"align\":" << p.align << "}";
      off += p.size;
    }
    o << "],\"maxntid\":[" << f.maxntid[0] << "," << f.maxntid[1] << "," << f.maxntid[2] << "]}";
  }
  o << "],\"globals\":{";
  first = true;
  for (auto& kv : H->mod.vars)
    if (kv.second.space == SP_GLOBAL || kv.second.space == SP_CONST) {
      if (!first) o << ",";
      first = false;
      o << jesc(kv.first) << ":{\"bytes\":" << kv.second.bytes
        << ",\"host\":" << (u64)(uintptr_t)H->ranges[kv.second.addr >> VBITS].host
        << ",\"addr\":" << kv.second.addr << "}";
    }
  o << "}}";
  H->ret = o.str();
  return H->ret.c_str();
}
EXPORT u32 emu_range_count(Handle* H) {
  return (u32)H->ranges.size();
}
EXPORT void emu_truncate_ranges(Handle* H, u32 n) {
  H->ranges.resize(std::max<size_t>(n, H->baseRanges));
}
EXPORT u64 emu_add_range(Handle* H, void* host, u64 len, u64 voff, int ro, const char* name) {
  Range r;
  r.host = (u8*)host;
  r.len = len;
  r.voff = voff;
  r.ro = ro;
  r.name = name;
  H->ranges.push_back(r);
  return ((u64)(H->ranges.size() - 1) << VBITS) + voff;
}

EXPORT const char* emu_launch(Handle* H, const char* name, const u8* params, u32 nparams,
                              const Opts* op) {
  Outcome outcome;
  try {
    launch(*H, name, params, nparams, *op, outcome);
  } catch (EmuError& e) {
    outcome.fail(e.kind, e.what());
  } catch (std::exception& e) {
    outcome.fail("internal", e.what());
  }
  H->ret = report(*H, outcome, *op);
  return H->ret.c_str();
}
}
