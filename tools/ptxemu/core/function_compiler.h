// The compiler of a function's body to instructions: registers, operands and symbols.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "handler_choice.h"

struct Unsup {
  std::string m;
};

struct FuncCompiler {
  Module& M;
  Prog& P;
  FuncC& F;
  std::map<std::string, u32>& sharedOff;
  std::map<std::string, u32>& funcIdx;
  size_t p = 0;
  const FuncDecl* fd = nullptr;
  u32 predFree = 0, predLeft = 0;
  u32 curFile = 0, curLine = 0;
  struct Sym {
    char k = 0;
    Reg r{};
    u32 off = 0, size = 0;
  };  // r reg, P param-area var, L local var, S shared var, K kernel param
  struct Scope {
    std::unordered_map<std::string, Sym> s;
    std::unordered_map<std::string, u32> lab;
    std::vector<std::pair<u32, std::string>> fix;
    std::vector<std::pair<std::pair<u32, u32>, std::string>> tfix;
  };
  std::vector<Scope> sc;
  std::map<std::pair<u64, int>, u32> imms;
  std::map<std::pair<int, int>, u32> specs;
  std::map<std::string, u32>& sigs;
  FuncCompiler(Module& m, Prog& pr, FuncC& f, std::map<std::string, u32>& so,
               std::map<std::string, u32>& fi, std::map<std::string, u32>& sg)
      : M(m), P(pr), F(f), sharedOff(so), funcIdx(fi), sigs(sg) {}

  u32 allocLanes(int size) {
    u32 o = (F.regBytes + 63) & ~63u;
    F.regBytes = o + 32 * size;
    F.image.resize(F.regBytes, 0);
    return o;
  }
  Reg newReg(Ty t) {
    Reg r;
    r.pred = t == T_PRED;
    r.size = r.pred ? 4 : std::max(2, tySize(t));
    if (r.pred) {
      if (!predLeft) {
        predFree = (F.regBytes + 63) & ~63u;
        F.regBytes = predFree + 64;
        F.image.resize(F.regBytes, 0);
        predLeft = 16;
      }
      r.off = predFree;
      predFree += 4;
      predLeft--;
    } else
      r.off = allocLanes(r.size);
    return r;
  }
  u32 immReg(u64 v, int size) {
    if (size < 2) size = 2;
    if (size < 8) v &= (1ull << (8 * size)) - 1;
    auto k = std::make_pair(v, size);
    auto it = imms.find(k);
    if (it != imms.end()) return it->second;
    u32 o = allocLanes(size);
    for (int i = 0; i < 32; i++) memcpy(&F.image[o + i * size], &v, size);
    imms[k] = o;
    return o;
  }
  u32 immPred(bool v) {
    auto k = std::make_pair((u64)v, 99);
    auto it = imms.find(k);
    if (it != imms.end()) return it->second;
    Reg r = newReg(T_PRED);
    u32 x = v ? ~0u : 0;
    memcpy(&F.image[r.off], &x, 4);
    imms[k] = r.off;
    return r.off;
  }
  u32 specReg(int id, int size) {
    auto k = std::make_pair(id, size);
    auto it = specs.find(k);
    if (it != specs.end()) return it->second;
    u32 o = allocLanes(size);
    specs[k] = o;
    FuncC::Spec sp;
    sp.id = (u32)id | (size == 8 ? 0x100u : 0) | (size == 2 ? 0x200u : 0);
    sp.off = o;
    F.specs.push_back(sp);
    return o;
  }
  u32 localReg(i64 off, int size) {
    auto k = std::make_pair((int)off + (1 << 20), size);
    auto it = specs.find(k);
    if (it != specs.end()) return it->second;
    u32 o = allocLanes(size);
    specs[k] = o;
    FuncC::Spec sp;
    sp.id = 0x1000u | (size == 8 ? 0x100u : 0);
    sp.off = o;
    sp.val = off;
    F.specs.push_back(sp);
    return o;
  }
  const Sym* find(const std::string& n) {
    for (size_t i = sc.size(); i--;) {
      auto it = sc[i].s.find(n);
      if (it != sc[i].s.end()) return &it->second;
    }
    return nullptr;
  }
  bool is(const char* s) { return M.is(p, s); }
  void need(const char* s) { M.need(p, s); }
  static int specialId(const std::string& s) {
    for (size_t i = 0; i < sizeof specNames / sizeof *specNames; i++)
      if (s == specNames[i]) return (int)i;
    return -1;
  }

  // address value of a symbol; space reports where it lives
  bool symAddr(const std::string& n, u64& a, Space& sp) {
    if (const Sym* s = find(n)) {
      if (s->k == 'L') {
        a = s->off;
        sp = SP_LOCAL;
        return true;
      }
      if (s->k == 'S') {
        a = s->off;
        sp = SP_SHARED;
        return true;
      }
      if (s->k == 'K') {
        a = (1ull << VBITS) + s->off;
        sp = SP_PARAM;
        return true;
      }
      return false;
    }
    auto so = sharedOff.find(n);
    if (so != sharedOff.end()) {
      a = so->second;
      sp = SP_SHARED;
      return true;
    }
    auto it = M.vars.find(n);
    if (it == M.vars.end()) return false;
    a = it->second.addr;
    sp = it->second.space;
    return true;
  }
  Opnd operand();
  u64 immBits(const Opnd& o, Ty t) {
    const Num& n = o.num;
    if (t == T_F32 || t == T_TF32) {
      if (n.isF && n.fbits == 32) return o.neg ? (n.v ^ 0x80000000u) : n.v;
      if (n.isF) return bitcast<u32>((float)(o.neg ? -n.d : n.d));
    }
    if (t == T_F64) {
      if (n.isF && n.fbits == 64) return o.neg ? (n.v ^ (1ull << 63)) : n.v;
      if (n.isF) return bitcast<u64>(o.neg ? -n.d : n.d);
      return bitcast<u64>((double)(o.neg ? -(i64)n.v : (i64)n.v));
    }
    if (t == T_F32 && !n.isF) return bitcast<u32>((float)(o.neg ? -(i64)n.v : (i64)n.v));
    if (n.isF && n.fbits == 64 && tySize(t) == 4) return n.v;
    return o.neg ? (u64)(-(i64)n.v) : n.v;
  }
  // register offset of a source operand used with type t
  u32 src(const Opnd& o, Ty t, bool anySize = false) {
    int sz = std::max(2, tySize(t));
    switch (o.k) {
      case 'r':
        if (t == T_PRED ? !o.reg.pred : (o.reg.pred || (o.reg.size != sz && !anySize)))
          throw Unsup{"operand size mismatch for " + o.sym};
        return o.reg.off;
      case 'n':
        return t == T_PRED ? immPred(o.num.v != 0) : immReg(immBits(o, t), sz);
      case 'x':
        return specReg(o.special, sz);
      case 's': {
        u64 a;
        Space sp;
        if (!symAddr(o.sym, a, sp)) throw Unsup{"unknown symbol " + o.sym};
        return sp == SP_LOCAL ? localReg((i64)a + o.off, sz) : immReg(a + o.off, sz);
      }
      case 'v': {
        Opnd q = o;
        (void)q;
        throw Unsup{"vector operand where a scalar is needed"};
      }
      default:
        throw Unsup{"bad source operand"};
    }
  }
  u32 dst(const Opnd& o, Ty t, bool anySize = false) {
    if (o.k == '_') return SINK;
    if (o.k != 'r') throw Unsup{"bad destination"};
    int sz = std::max(2, tySize(t));
    if (t == T_PRED ? !o.reg.pred : (o.reg.pred || (o.reg.size != sz && !anySize)))
      throw Unsup{"destination size mismatch for " + o.sym};
    return o.reg.off;
  }
  void addr(Inst& I, const Opnd& o) {  // sets a, imm, F_A32 and, for symbols, the state space
    if (o.k != 'm') throw Unsup{"address expected"};
    const Opnd& b = o.v[0];
    I.imm = o.off;
    if (b.k == 'r') {
      I.a = b.reg.off;
      if (b.reg.size == 4)
        I.flag |= F_A32;
      else if (b.reg.size != 8)
        throw Unsup{"address register size"};
    } else if (b.k == 's') {
      u64 a;
      Space sp;
      if (!symAddr(b.sym, a, sp)) throw Unsup{"unknown symbol " + b.sym};
      I.a = sp == SP_LOCAL ? localReg((i64)a, 8) : immReg(a, 8);
      if (I.space == SP_GENERIC) I.space = sp;
    } else if (b.k == 'n') {
      I.a = immReg(b.num.v, 8);
    } else
      throw Unsup{"bad address"};
  }
  u32 poolAdd(const std::vector<u32>& v) {
    u32 e = (u32)P.pool.size();
    P.pool.insert(P.pool.end(), v.begin(), v.end());
    return e;
  }
  static std::vector<std::string> split(const std::string& s) {
    std::vector<std::string> r;
    size_t a = 0;
    for (;;) {
      size_t b = s.find('.', a);
      if (b == std::string::npos) {
        r.push_back(s.substr(a));
        return r;
      }
      r.push_back(s.substr(a, b - a));
      a = b + 1;
    }
  }

  // The instruction that decode() is at: its opcode, whole and in parts, and the types in it.
  Inst I;
  std::string opc, b;
  std::vector<std::string> q;
  std::vector<Ty> ty;
  Ty T = T_NONE;
  bool fz = false;  // flushes denormal numbers
  int hw = 1;       // values in a register of a half type

  bool has(const char* s) {
    for (auto& x : q)
      if (x == s) return true;
    return false;
  }
  Space space() {
    for (auto& x : q) {
      if (x == "global") return SP_GLOBAL;
      if (x == "shared" || x.rfind("shared::", 0) == 0) return SP_SHARED;
      if (x == "local") return SP_LOCAL;
      if (x == "const") return SP_CONST;
      if (x == "param" || x.rfind("param::", 0) == 0) return SP_PARAM;
    }
    return SP_GENERIC;
  }
  void comma() { need(","); }
  std::vector<Opnd> ops(int n) {
    std::vector<Opnd> v;
    for (int i = 0; i < n; i++) {
      if (i) comma();
      v.push_back(operand());
    }
    return v;
  }
  std::vector<Opnd> opsAll() {
    std::vector<Opnd> v;
    while (!is(";")) {
      if (is(",")) {
        p++;
        continue;
      }
      v.push_back(operand());
    }
    return v;
  }
  // Emits the instruction. This and what it ends return true: an instruction of one's own.
  bool fin(Handler h, Cls c, int fl = 0) {
    if (!h) throw Unsup{opc};
    I.fn = h;
    I.cls = c;
    I.flops = (u16)fl;
    emit(I);
    return true;
  }
  // Sets sources a, b, c and e from operands first to last of them, as many as have a type.
  void sources(const std::vector<Opnd>& o, size_t first, std::initializer_list<Ty> types) {
    u32* fields[] = {&I.a, &I.b, &I.c, &I.e};
    size_t k = 0;
    for (Ty t : types) {
      *fields[k] = src(o[first + k], t);
      k++;
    }
  }
  // Reads a destination and the sources behind it, as many as have a type.
  std::vector<Opnd> take(Ty to, std::initializer_list<Ty> from) {
    auto o = ops(1 + (int)from.size());
    I.d = dst(o[0], to);
    sources(o, 1, from);
    return o;
  }
  bool op2(Handler h, Cls c, Ty t, int fl = 0) {
    take(t, {t});
    return fin(h, c, fl);
  }
  bool op3(Handler h, Cls c, Ty t, int fl = 0) {
    take(t, {t, t});
    return fin(h, c, fl);
  }
  bool op4(Handler h, Cls c, Ty t, int fl = 0) {
    take(t, {t, t, t});
    return fin(h, c, fl);
  }
  // Returns the destination in front of |, and sets `predicate` to the one behind, if any.
  Opnd withPredicate(const Opnd& o, u32& predicate) {
    predicate = SINK;
    if (o.k != '|') return o;
    predicate = dst(o.v[1], T_PRED);
    return o.v[0];
  }
  // The handlers of an arithmetic operation in the float types, null where it has none.
  struct FloatHandlers {
    Handler half, f32, f64, f32x2;
  };
  bool decodeFloat(const FloatHandlers& h, u8 number, int sources = 2, Cls f32Class = C_F32);
  bool collective(u8 op, Cls cls, Ty to, std::initializer_list<Ty> from);
  void vecRegs(const Opnd& o, Ty t, std::vector<u32>& v, bool d) {
    if (o.k == 'v')
      for (auto& x : o.v) v.push_back(d ? dst(x, t) : src(x, t));
    else
      v.push_back(d ? dst(o, t) : src(o, t));
  }

  void emit(Inst& I) { P.code.push_back(I); }
  void body(const FuncDecl& d);
  void statement();
  void decode(const Inst& inst, const std::string& opcode);
  // Each returns whether the instruction is one of its own, and has then emitted it.
  bool decodeMoves();
  bool decodeArithmetic();
  bool decodeBits();
  bool decodeComparisons();
  bool decodeControl();
  bool decodeCollectives();
  bool decodeAtomics();
  bool decodeMatrices();
  void call(Inst& I);
};
