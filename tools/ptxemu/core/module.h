// A parsed PTX module: its variables, its functions, and their bodies as ranges of tokens.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tokens.h"

enum Space : u8 { SP_GENERIC, SP_GLOBAL, SP_SHARED, SP_LOCAL, SP_CONST, SP_PARAM };

struct Var {
  std::string name;
  Space space = SP_GLOBAL;
  u32 align = 1;
  Ty ty = T_B8;
  u64 bytes = 0;
  bool dyn = false, ext = false, hasInit = false;
  std::vector<u8> init;
  struct Rel {
    u64 off;
    std::string sym;
    i64 add;
    bool generic;
    int size;
  };
  std::vector<Rel> rels;
  u64 addr = 0;  // assigned virtual address (global/const) or shared offset
};
struct ParamDecl {
  std::string name;
  u32 align;
  u32 size;
  Ty ty;
  bool ptr = false;
};
struct FuncDecl {
  std::string name;
  bool entry = false, hasBody = false;
  std::vector<ParamDecl> params, rets;
  size_t b0 = 0, b1 = 0;
  int line = 0;
  u32 maxntid[3] = {0, 0, 0}, reqntid[3] = {0, 0, 0};
};

struct Module {
  std::string text;
  std::vector<std::string> lines;
  std::vector<Tok> tk;
  std::map<std::string, Var> vars;
  std::map<std::string, FuncDecl> funcs;
  std::vector<std::string> order;
  std::map<int, std::string> files;
  std::string version, target;

  [[noreturn]] void err(size_t p, const std::string& m) const {
    throw EmuError("parse",
                   "PTX line " + std::to_string(tk[p].line) + ": " + m + " near '" + tk[p].s + "'");
  }
  bool is(size_t p, const char* s) const { return tk[p].s == s && tk[p].k != 's'; }
  void need(size_t& p, const char* s) {
    if (!is(p, s)) err(p, std::string("expected '") + s + "'");
    p++;
  }

  // reads "[.align N] [.vN] .type name [dims] [= init]" of a variable; p is after the state space
  Var parseVar(size_t& p, Space sp) {
    Var v;
    v.space = sp;
    u32 al = 0;
    int vec = 1;
    for (;;) {
      if (is(p, ".align")) {
        al = (u32)parseInt(tk[p + 1].s);
        p += 2;
      } else if (is(p, ".v2")) {
        vec = 2;
        p++;
      } else if (is(p, ".v4")) {
        vec = 4;
        p++;
      } else if (is(p, ".ptr")) {
        p++;
        if (tk[p].k == 'd' &&
            (is(p, ".global") || is(p, ".shared") || is(p, ".const") || is(p, ".local")))
          p++;
      } else if (is(p, ".attribute")) {
        p++;
        need(p, "(");
        while (!is(p, ")")) p++;
        p++;
      } else if (tk[p].k == 'd' && typeOf(tk[p].s.substr(1)) != T_NONE) {
        v.ty = typeOf(tk[p].s.substr(1));
        p++;
      } else if (tk[p].k == 'd') {
        p++;
      } else
        break;
    }
    v.name = tk[p++].s;
    int es = tySize(v.ty) * vec;
    u64 cnt = 1;
    bool dyn = false;
    while (is(p, "[")) {
      p++;
      if (is(p, "]")) {
        dyn = true;
        p++;
        continue;
      }
      cnt *= parseInt(tk[p].s);
      p++;
      need(p, "]");
    }
    v.dyn = dyn;
    v.bytes = dyn ? 0 : cnt * es;
    v.align = al ? al : es;
    if (is(p, "=")) {
      p++;
      v.hasInit = true;
      int e1 = tySize(v.ty);
      std::vector<u8> data;
      int depth = 0;
      for (;;) {
        if (is(p, "{")) {
          depth++;
          p++;
          continue;
        }
        if (is(p, "}")) {
          depth--;
          p++;
          if (depth == 0) break;
          continue;
        }
        if (is(p, ",")) {
          p++;
          continue;
        }
        bool neg = false;
        if (is(p, "-")) {
          neg = true;
          p++;
        }
        size_t off = data.size();
        data.resize(off + e1, 0);
        if (tk[p].k == 'n') {
          Num n = parseNum(tk[p].s);
          p++;
          if (is(p, "(")) err(p, "masked address initialisers are not supported");
          u64 b = n.v;
          if (n.isF) {
            double d = neg ? -n.d : n.d;
            if (v.ty == T_F32)
              b = bitcast<u32>((float)d);
            else if (v.ty == T_F64)
              b = bitcast<u64>(d);
            if (n.fbits == 32 && v.ty == T_F32 && !neg) b = n.v;
          } else {
            if (neg) b = (u64)(-(i64)b);
            if (v.ty == T_F32)
              b = bitcast<u32>((float)(i64)b);
            else if (v.ty == T_F64)
              b = bitcast<u64>((double)(i64)b);
          }
          memcpy(&data[off], &b, e1);
        } else {
          bool gen = false;
          if (is(p, "generic")) {
            gen = true;
            p++;
            need(p, "(");
          }
          std::string sym = tk[p++].s;
          if (gen) need(p, ")");
          i64 add = 0;
          if (is(p, "+") || is(p, "-")) {
            bool ng = is(p, "-");
            p++;
            add = (i64)parseInt(tk[p++].s);
            if (ng) add = -add;
          }
          v.rels.push_back({off, sym, add, gen, e1});
        }
        if (depth == 0) break;
      }
      if (dyn) v.bytes = data.size();
      if (data.size() < v.bytes) data.resize(v.bytes, 0);
      v.init = data;
    }
    return v;
  }
  std::vector<ParamDecl> parseParams(size_t& p) {
    std::vector<ParamDecl> r;
    need(p, "(");
    while (!is(p, ")")) {
      if (is(p, ",")) {
        p++;
        continue;
      }
      if (is(p, ".param") || is(p, ".reg")) p++;
      Var v = parseVar(p, SP_PARAM);
      r.push_back({v.name, v.align, (u32)v.bytes, v.ty});
    }
    p++;
    return r;
  }
  void parse(const std::string& t) {
    text = t;
    size_t a = 0;
    while (a <= t.size()) {
      size_t b = t.find('\n', a);
      if (b == std::string::npos) {
        lines.push_back(t.substr(a));
        break;
      }
      lines.push_back(t.substr(a, b - a));
      a = b + 1;
    }
    int ln = 1;
    tk = lexPtx(t, ln);
    size_t p = 0;
    bool ext = false;
    while (tk[p].k != 'e') {
      if (is(p, ".version")) {
        version = tk[p + 1].s;
        p += 2;
        continue;
      }
      if (is(p, ".target")) {
        target = tk[p + 1].s;
        p += 2;
        while (is(p, ",")) p += 2;
        continue;
      }
      if (is(p, ".address_size")) {
        if (tk[p + 1].s != "64") err(p, "only 64-bit addressing is supported");
        p += 2;
        continue;
      }
      if (is(p, ".visible") || is(p, ".weak") || is(p, ".common")) {
        p++;
        continue;
      }
      if (is(p, ".extern")) {
        ext = true;
        p++;
        continue;
      }
      if (is(p, ".file")) {
        files[(int)parseInt(tk[p + 1].s)] = tk[p + 2].s;
        p += 3;
        if (is(p, ",")) p += 4;
        continue;
      }
      if (is(p, ".section")) {
        while (!is(p, "{")) p++;
        int d = 0;
        do {
          if (is(p, "{")) d++;
          if (is(p, "}")) d--;
          p++;
        } while (d);
        continue;
      }
      if (is(p, ".pragma")) {
        while (!is(p, ";")) p++;
        p++;
        continue;
      }
      if (is(p, ".alias")) {
        while (!is(p, ";")) p++;
        p++;
        continue;
      }
      if (is(p, ";")) {
        p++;
        continue;
      }
      if (is(p, ".loc")) {
        p += 4;
        continue;
      }
      if (is(p, ".global") || is(p, ".const") || is(p, ".shared")) {
        Space sp = is(p, ".global") ? SP_GLOBAL : is(p, ".const") ? SP_CONST : SP_SHARED;
        p++;
        Var v = parseVar(p, sp);
        v.ext = ext;
        ext = false;
        need(p, ";");
        if (!vars.count(v.name) || v.hasInit || v.bytes) vars[v.name] = v;
        continue;
      }
      if (is(p, ".entry") || is(p, ".func")) {
        FuncDecl f;
        f.entry = is(p, ".entry");
        f.line = tk[p].line;
        p++;
        ext = false;
        while (tk[p].k == 'd') p++;
        if (!f.entry && is(p, "(")) f.rets = parseParams(p);
        f.name = tk[p++].s;
        if (is(p, "(")) f.params = parseParams(p);
        while (!is(p, "{") && !is(p, ";")) {
          if (is(p, ".maxntid") || is(p, ".reqntid")) {
            u32* q = is(p, ".maxntid") ? f.maxntid : f.reqntid;
            p++;
            int k = 0;
            q[0] = q[1] = q[2] = 1;
            for (;;) {
              q[k++] = (u32)parseInt(tk[p++].s);
              if (is(p, ",") && k < 3)
                p++;
              else
                break;
            }
            continue;
          }
          if (tk[p].k == 'e') err(p, "unexpected end");
          p++;
        }
        if (is(p, ";")) {
          p++;
          if (!funcs.count(f.name)) funcs[f.name] = f;
          continue;
        }
        f.hasBody = true;
        f.b0 = ++p;
        int d = 1;
        while (d) {
          if (tk[p].k == 'e') err(p, "unbalanced braces");
          if (is(p, "{")) d++;
          if (is(p, "}")) d--;
          p++;
        }
        f.b1 = p - 1;
        if (!funcs.count(f.name) || !funcs[f.name].hasBody) order.push_back(f.name);
        funcs[f.name] = f;
        continue;
      }
      if (tk[p].k == 'p' && is(p, "}")) {
        p++;
        continue;
      }
      err(p, "unexpected module-level token");
    }
  }
  std::string srcLine(int line) const {
    if (line < 1 || line > (int)lines.size()) return "";
    std::string s = lines[line - 1];
    size_t a = s.find_first_not_of(" \t");
    if (a == std::string::npos) return "";
    s = s.substr(a);
    for (auto& c : s)
      if (c == '\t') c = ' ';
    return s;
  }
};
