// A function's body: its declarations, labels, statements and calls.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "function_compiler.h"

inline void FuncCompiler::body(const FuncDecl& d) {
  fd = &d;
  p = d.b0;
  sc.emplace_back();
  F.name = d.name;
  F.entry = (u32)P.code.size();
  auto area = [&](std::vector<FuncC::P>& out, const std::vector<ParamDecl>& in) {
    for (auto& q : in) {
      u32 al = std::max(8u, q.align);
      u32 o = (F.pBytes + al - 1) / al * al;
      F.pBytes = o + std::max(8u, (q.size + 7) / 8 * 8);
      out.push_back({q.name, o, q.size, q.align});
      sc[0].s[q.name] = {'P', {}, o, std::max(8u, (q.size + 7) / 8 * 8)};
    }
  };
  if (d.entry) {
    u32 o = 0;
    for (auto& q : d.params) {
      o = (o + q.align - 1) / q.align * q.align;
      P.kparams.push_back({q.name, o, q.size, q.align});
      sc[0].s[q.name] = {'K', {}, o, q.size};
      o += q.size;
    }
    P.paramBytes = o;
  } else {
    area(F.params, d.params);
    area(F.rets, d.rets);
  }
  while (p < d.b1) statement();
  auto& S = sc[0];
  for (auto& f : S.fix) {
    auto it = S.lab.find(f.second);
    if (it == S.lab.end()) throw EmuError("parse", "undefined label " + f.second + " in " + d.name);
    P.code[f.first].target = it->second;
  }
  for (auto& f : S.tfix) {
    auto it = S.lab.find(f.second);
    if (it == S.lab.end()) throw EmuError("parse", "undefined label " + f.second);
    P.tables[f.first.first][f.first.second] = it->second;
  }
  sc.pop_back();
  Inst I;
  I.kind = d.entry ? K_EXIT : K_RET;
  I.cls = C_BRANCH;
  I.line = M.tk[d.b1].line;
  emit(I);
}

inline void FuncCompiler::statement() {
  if (is("{")) {
    sc.emplace_back();
    p++;
    return;
  }
  if (is("}")) {
    p++;
    if (sc.size() < 2) M.err(p, "unbalanced scope");
    Scope S = std::move(sc.back());
    sc.pop_back();
    for (auto& f : S.fix) {
      auto it = S.lab.find(f.second);
      if (it != S.lab.end())
        P.code[f.first].target = it->second;
      else
        sc.back().fix.push_back(f);
    }
    for (auto& f : S.tfix) {
      auto it = S.lab.find(f.second);
      if (it != S.lab.end())
        P.tables[f.first.first][f.first.second] = it->second;
      else
        sc.back().tfix.push_back(f);
    }
    return;
  }
  if (is(";")) {
    p++;
    return;
  }
  const Tok& t = M.tk[p];
  if (t.k == 'd') {
    if (t.s == ".reg") {
      p++;
      Ty ty = T_B32;
      int vec = 1;
      while (M.tk[p].k == 'd') {
        if (is(".v2"))
          vec = 2;
        else if (is(".v4"))
          vec = 4;
        else
          ty = typeOf(M.tk[p].s.substr(1));
        p++;
      }
      if (vec != 1) M.err(p, "vector registers are not supported");
      for (;;) {
        std::string n = M.tk[p++].s;
        if (is("<")) {
          p++;
          u64 c = parseInt(M.tk[p++].s);
          need(">");
          for (u64 i = 0; i < c; i++) {
            sc.back().s[n + std::to_string(i)] = {'r', newReg(ty)};
          }
        } else {
          sc.back().s[n] = {'r', newReg(ty)};
        }
        if (is(",")) {
          p++;
          continue;
        }
        break;
      }
      need(";");
      return;
    }
    if (t.s == ".local") {
      p++;
      Var v = M.parseVar(p, SP_LOCAL);
      need(";");
      u32 o = (F.localSize + v.align - 1) / v.align * v.align;
      F.localSize = o + (u32)v.bytes;
      sc.back().s[v.name] = {'L', {}, o, (u32)v.bytes};
      return;
    }
    if (t.s == ".shared") {
      p++;
      Var v = M.parseVar(p, SP_SHARED);
      need(";");
      sc.back().s[v.name] = {'S', {}, sharedOff[F.name + "::" + v.name], (u32)v.bytes};
      return;
    }
    if (t.s == ".param") {
      p++;
      Var v = M.parseVar(p, SP_PARAM);
      need(";");
      u32 al = std::max(8u, v.align);
      u32 o = (F.pBytes + al - 1) / al * al;
      u32 sz = std::max(8u, ((u32)v.bytes + 7) / 8 * 8);
      F.pBytes = o + sz;
      sc.back().s[v.name] = {'P', {}, o, sz};
      return;
    }
    if (t.s == ".loc") {
      curFile = (u32)parseInt(M.tk[p + 1].s);
      curLine = (u32)parseInt(M.tk[p + 2].s);
      p += 4;
      while (is(",")) {
        p++;
        bool at = is("inlined_at");
        p++;
        if (at) {
          p += 3;
          continue;
        }
        p++;
        if (is("+")) p += 2;
      }
      return;
    }
    if (t.s == ".pragma" || t.s == ".callprototype" || t.s == ".global" || t.s == ".const") {
      while (!is(";")) p++;
      p++;
      return;
    }
    M.err(p, "unexpected directive in function body");
  }
  if (t.k == 'i' && M.is(p + 1, ":")) {
    std::string name = t.s;
    if (M.is(p + 2, ".branchtargets")) {
      p += 3;
      std::vector<u32> tab;
      u32 id = (u32)P.tables.size();
      sc[0].s[name] = {'T', {}, id, 0};
      while (!is(";")) {
        if (is(",")) {
          p++;
          continue;
        }
        sc.back().tfix.push_back({{id, (u32)tab.size()}, M.tk[p].s});
        tab.push_back(0);
        p++;
      }
      P.tables.push_back(tab);
      p++;
      return;
    }
    if (M.is(p + 2, ".callprototype")) {
      while (!is(";")) p++;
      p++;
      return;
    }
    sc.back().lab[name] = (u32)P.code.size();
    p += 2;
    return;
  }
  Inst I;
  I.line = t.line;
  I.sfile = curFile;
  I.sline = curLine;
  size_t start = p;
  try {
    if (is("@")) {
      p++;
      bool neg = false;
      if (is("!")) {
        neg = true;
        p++;
      }
      Opnd g = operand();
      if (g.k != 'r' || !g.reg.pred) throw Unsup{"bad guard"};
      I.guard = g.reg.off;
      I.gneg = neg;
    }
    if (M.tk[p].k != 'i') M.err(p, "instruction expected");
    std::string opc = M.tk[p++].s;
    I.line = M.tk[p - 1].line;
    auto sg = sigs.emplace(opc, (u32)sigs.size() + 1);
    I.sig = sg.first->second;
    decode(I, opc);
    if (!is(";")) throw Unsup{"trailing operands"};
    p++;
  } catch (Unsup& u) {
    p = start;
    int depth = 0;
    while (!(is(";") && depth == 0)) {
      if (is("{")) depth++;
      if (is("}")) depth--;
      if (M.tk[p].k == 'e') break;
      p++;
    }
    p++;
    I.kind = K_TRAP;
    I.cls = C_OTHER;
    I.n = (u32)P.messages.size();
    P.messages.push_back("unsupported instruction (" + u.m + ")");
    emit(I);
  }
}

inline void FuncCompiler::call(Inst& I) {
  std::vector<std::string> rets, args;
  std::string callee;
  auto list = [&](std::vector<std::string>& o) {
    need("(");
    while (!is(")")) {
      if (is(",")) {
        p++;
        continue;
      }
      o.push_back(M.tk[p++].s);
    }
    p++;
  };
  if (is("(")) {
    list(rets);
    need(",");
  }
  callee = M.tk[p++].s;
  if (is(",")) {
    p++;
    if (is("(")) list(args);
    if (is(",")) {
      p++;
      p++;
    }
  }
  if (callee[0] == '%' && find(callee)) throw Unsup{"indirect call"};
  CallSite cs;
  auto area = [&](const std::string& n) {
    const Sym* s = find(n);
    if (!s || s->k != 'P') throw Unsup{"call argument " + n + " is not a .param variable"};
    return std::make_pair(s->off, s->size);
  };
  for (auto& a : args) cs.args.push_back(area(a));
  for (auto& r : rets) cs.rets.push_back(area(r));
  I.kind = K_CALL;
  I.cls = C_BRANCH;
  auto it = funcIdx.find(callee);
  if (it != funcIdx.end())
    cs.func = it->second;
  else if (callee == "vprintf")
    cs.builtin = 1;
  else if (callee == "__assertfail")
    cs.builtin = 2;
  else if (callee == "malloc" || callee == "free")
    throw Unsup{"device " + callee};
  else
    throw Unsup{"call of undefined function " + callee};
  I.n = (u32)P.calls.size();
  P.calls.push_back(cs);
  emit(I);
}
