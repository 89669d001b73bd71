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
    fin(h_nop, C_OTHER);
    return true;
  }
  if (b == "prefetch" || b == "prefetchu" || b == "discard" || b == "applypriority" ||
      b == "nanosleep" || b == "griddepcontrol" || b == "setmaxnreg" || b == "pmevent" ||
      b == "createpolicy" || b == "brkpt") {
    if (b == "createpolicy") throw Unsup{opc};
    opsAll();
    fin(h_nop, C_OTHER);
    return true;
  }
  return false;
}

inline bool FuncCompiler::decodeCollectives() {
  if (b == "activemask") {
    Opnd o = operand();
    I.d = dst(o, T_B32);
    fin(h_activemask, C_VOTE);
    return true;
  }
  if (b == "elect") {
    auto o = ops(2);
    I.kind = K_COLL;
    I.op = CO_ELECT;
    I.cls = C_VOTE;
    I.target = SINK;
    Opnd d0 = o[0];
    if (d0.k == '|') {
      I.target = dst(d0.v[1], T_PRED);
      d0 = d0.v[0];
    }
    I.d = dst(d0, T_B32);
    I.e = src(o[1], T_B32);
    emit(I);
    return true;
  }
  if (b == "shfl") {
    if (!has("sync")) throw Unsup{"shfl without .sync"};
    auto o = ops(5);
    I.kind = K_COLL;
    I.op = CO_SHFL;
    I.cls = C_SHFL;
    I.target = SINK;
    Opnd d0 = o[0];
    if (d0.k == '|') {
      I.target = d0.v[1].k == '_' ? SINK : dst(d0.v[1], T_PRED);
      d0 = d0.v[0];
    }
    I.d = dst(d0, T_B32);
    I.a = src(o[1], T_B32);
    I.b = src(o[2], T_B32);
    I.c = src(o[3], T_B32);
    I.e = src(o[4], T_B32);
    I.n = has("up") ? 0 : has("down") ? 1 : has("bfly") ? 2 : 3;
    emit(I);
    return true;
  }
  if (b == "vote") {
    if (!has("sync")) throw Unsup{"vote without .sync"};
    auto o = ops(3);
    I.kind = K_COLL;
    I.op = CO_VOTE;
    I.cls = C_VOTE;
    I.n = has("all") ? 0 : has("any") ? 1 : has("uni") ? 2 : 3;
    I.d = dst(o[0], I.n == 3 ? T_B32 : T_PRED);
    I.a = src(o[1], T_PRED);
    if (o[1].bang) I.flag |= F_NEGC;
    I.e = src(o[2], T_B32);
    emit(I);
    return true;
  }
  if (b == "match") {
    auto o = ops(3);
    I.kind = K_COLL;
    I.op = CO_MATCH;
    I.cls = C_VOTE;
    I.n = has("all");
    I.target = SINK;
    Opnd d0 = o[0];
    if (d0.k == '|') {
      I.target = d0.v[1].k == '_' ? SINK : dst(d0.v[1], T_PRED);
      d0 = d0.v[0];
    }
    I.d = dst(d0, T_B32);
    I.rs = (u8)tySize(T);
    I.a = src(o[1], T);
    I.e = src(o[2], T_B32);
    emit(I);
    return true;
  }
  if (b == "redux") {
    auto o = ops(3);
    I.kind = K_COLL;
    I.op = CO_REDUX;
    I.cls = C_VOTE;
    I.n = has("add")   ? A_ADD
          : has("min") ? A_MIN
          : has("max") ? A_MAX
          : has("and") ? A_AND
          : has("or")  ? A_OR
                       : A_XOR;
    I.d = dst(o[0], T_B32);
    I.a = src(o[1], T_B32);
    I.e = src(o[2], T_B32);
    emit(I);
    return true;
  }
  return false;
}
