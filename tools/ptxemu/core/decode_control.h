// Decodes branches, calls, barriers and the collectives of a warp.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeControl() {
  if (b == "bra") {
    auto o = M.tk[p++].s;
    I.kind = K_BRA;
    I.cls = C_BRANCH;
    sc.back().fix.push_back({(u32)P.code.size(), o});
    emit(I);
    return true;
  }
  if (b == "brx") {
    Opnd ix = operand();
    comma();
    std::string tn = M.tk[p++].s;
    const Sym* s = find(tn);
    if (!s || s->k != 'T') throw Unsup{"brx target list"};
    I.kind = K_BRX;
    I.cls = C_BRANCH;
    I.a = src(ix, T_U32);
    I.n = s->off;
    emit(I);
    return true;
  }
  if (b == "ret") {
    I.kind = fd->entry ? K_EXIT : K_RET;
    I.cls = C_BRANCH;
    emit(I);
    return true;
  }
  if (b == "exit") {
    I.kind = K_EXIT;
    I.cls = C_BRANCH;
    emit(I);
    return true;
  }
  if (b == "trap") {
    I.kind = K_TRAP;
    I.n = (u32)P.messages.size();
    P.messages.push_back("trap executed");
    emit(I);
    return true;
  }
  if (b == "call") {
    call(I);
    return true;
  }
  if (b == "bar" || b == "barrier") {
    if (has("warp")) {
      Opnd o = operand();
      I.kind = K_COLL;
      I.op = CO_BARWARP;
      I.e = src(o, T_B32);
      I.cls = C_BAR;
      emit(I);
      return true;
    }
    if (has("cluster")) throw Unsup{"cluster barrier"};
    I.kind = K_BAR;
    I.cls = C_BAR;
    if (b == "bar" || has("aligned")) I.flag |= F_ALIGNED;
    auto o = opsAll();
    I.d = SINK;
    I.b = SINK;
    I.op = has("arrive") ? 1 : has("red") ? 2 : 0;
    size_t k = 0;
    Opnd pr;
    if (I.op == 2) {
      I.rs = has("popc") ? 0 : has("and") ? 1 : 2;
      I.d = dst(o.at(k++), I.rs == 0 ? T_B32 : T_PRED);
      pr = o.back();
      o.pop_back();
      I.c = src(pr, T_PRED);
      if (pr.bang) I.flag |= F_NEGC;
    }
    I.a = src(o.at(k++), T_B32);
    if (k < o.size()) I.b = src(o[k], T_B32);
    emit(I);
    return true;
  }
  if (b == "membar" || b == "fence") {
    if (has("proxy")) {
      opsAll();
    }
    I.cls = C_BAR;
    return fin(h_nop, C_OTHER);
  }
  if (b == "prefetch" || b == "prefetchu" || b == "discard" || b == "applypriority" ||
      b == "nanosleep" || b == "griddepcontrol" || b == "setmaxnreg" || b == "pmevent" ||
      b == "createpolicy" || b == "brkpt") {
    if (b == "createpolicy") throw Unsup{opc};
    opsAll();
    return fin(h_nop, C_OTHER);
  }
  return false;
}

// A destination, for some with a predicate behind it, sources, and the mask of the lanes that meet.
inline bool FuncCompiler::collective(u8 op, Cls cls, Ty to, std::initializer_list<Ty> from) {
  auto o = ops(2 + (int)from.size());
  I.kind = K_COLL;
  I.op = op;
  I.cls = cls;
  I.d = dst(withPredicate(o[0], I.target), to);
  sources(o, 1, from);
  if (o[1].bang) I.flag |= F_NEGC;
  I.e = src(o.back(), T_B32);
  emit(I);
  return true;
}

inline bool FuncCompiler::decodeCollectives() {
  if (b == "activemask") {
    Opnd o = operand();
    I.d = dst(o, T_B32);
    return fin(h_activemask, C_VOTE);
  }
  if (b == "elect") {
    return collective(CO_ELECT, C_VOTE, T_B32, {});
  }
  if (b == "shfl") {
    if (!has("sync")) throw Unsup{"shfl without .sync"};
    I.n = has("up") ? 0 : has("down") ? 1 : has("bfly") ? 2 : 3;
    return collective(CO_SHFL, C_SHFL, T_B32, {T_B32, T_B32, T_B32});
  }
  if (b == "vote") {
    if (!has("sync")) throw Unsup{"vote without .sync"};
    I.n = has("all") ? 0 : has("any") ? 1 : has("uni") ? 2 : 3;
    return collective(CO_VOTE, C_VOTE, I.n == 3 ? T_B32 : T_PRED, {T_PRED});
  }
  if (b == "match") {
    I.n = has("all");
    I.rs = (u8)tySize(T);
    return collective(CO_MATCH, C_VOTE, T_B32, {T});
  }
  if (b == "redux") {
    I.n = has("add")   ? A_ADD
          : has("min") ? A_MIN
          : has("max") ? A_MAX
          : has("and") ? A_AND
          : has("or")  ? A_OR
                       : A_XOR;
    return collective(CO_REDUX, C_VOTE, T_B32, {T_B32});
  }
  return false;
}
