// Links a kernel with the functions that it calls, and lays out its shared memory.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "decode.h"

struct Handle {
  Module mod;
  std::vector<Range> ranges;
  size_t baseRanges = 0;
  std::map<std::string, std::unique_ptr<Prog>> progs;
  std::vector<std::vector<u8>> store;
  std::string ret;
};

static Prog* link(Handle& H, const std::string& name) {
  auto it = H.progs.find(name);
  if (it != H.progs.end()) return it->second.get();
  Module& M = H.mod;
  auto fi = M.funcs.find(name);
  if (fi == M.funcs.end() || !fi->second.entry || !fi->second.hasBody)
    throw EmuError("name", "no kernel named " + name);
  auto P = std::make_unique<Prog>();
  P->name = name;
  std::vector<std::string> reach{name};
  std::set<std::string> seen{name};
  std::map<std::string, u32> so, fidx, sigs;
  u32 off = 0;
  std::vector<std::string> dyn;
  auto place = [&](const std::string& key, const Var& v) {
    if (so.count(key)) return;
    u32 al = std::max(1u, v.align);
    off = (off + al - 1) / al * al;
    so[key] = off;
    off += (u32)v.bytes;
  };
  for (size_t r = 0; r < reach.size(); r++) {
    const FuncDecl& f = M.funcs[reach[r]];
    for (size_t p = f.b0; p < f.b1; p++) {
      if (M.is(p, ".shared") &&
          (M.is(p + 1, ".align") ||
           (M.tk[p + 1].k == 'd' && typeOf(M.tk[p + 1].s.substr(1)) != T_NONE))) {
        size_t q = p + 1;
        Var v = M.parseVar(q, SP_SHARED);
        place(f.name + "::" + v.name, v);
        continue;
      }
      if (M.tk[p].k != 'i') continue;
      const std::string& s = M.tk[p].s;
      auto g = M.funcs.find(s);
      if (g != M.funcs.end() && g->second.hasBody && seen.insert(s).second) reach.push_back(s);
      auto v = M.vars.find(s);
      if (v != M.vars.end() && v->second.space == SP_SHARED) {
        if (v->second.bytes == 0)
          dyn.push_back(s);
        else
          place(s, v->second);
      }
    }
  }
  u32 dal = 16;
  for (auto& s : dyn) dal = std::max(dal, M.vars[s].align);
  P->staticShared = off;
  if (!dyn.empty()) {
    P->staticShared = (off + dal - 1) / dal * dal;
    for (auto& s : dyn) so[s] = P->staticShared;
  }
  for (size_t r = 0; r < reach.size(); r++) fidx[reach[r]] = (u32)r;
  for (size_t r = 0; r < reach.size(); r++) P->funcs.emplace_back(new FuncC());
  for (size_t r = 0; r < reach.size(); r++) {
    FuncCompiler fc(M, *P, *P->funcs[r], so, fidx, sigs);
    fc.body(M.funcs[reach[r]]);
  }
  Prog* p = P.get();
  H.progs[name] = std::move(P);
  return p;
}
