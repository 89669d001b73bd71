// Decodes atomics, asynchronous copies and matrix products.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeAtomics() {
  if (b == "atom" || b == "red") {
    if (has("async")) throw Unsup{opc};
    I.space = space();
    I.vec = has("v2") ? 2 : has("v4") ? 4 : has("v8") ? 8 : 1;
    I.es = (u8)tySize(T);
    bool red = b == "red";
    I.op = has("add")    ? A_ADD
           : has("min")  ? A_MIN
           : has("max")  ? A_MAX
           : has("and")  ? A_AND
           : has("or")   ? A_OR
           : has("xor")  ? A_XOR
           : has("inc")  ? A_INC
           : has("dec")  ? A_DEC
           : has("exch") ? A_EXCH
           : has("cas")  ? A_CAS
                         : 99;
    if (I.op == 99 || I.es > 8) throw Unsup{opc};
    auto o = opsAll();
    size_t k = 0;
    Opnd d;
    d.k = '_';
    if (!red) d = o.at(k++);
    addr(I, o.at(k++));
    Opnd s1 = o.at(k++), s2;
    bool cas = I.op == A_CAS;
    if (cas) s2 = o.at(k++);
    std::vector<u32> v;
    auto each = [&](const Opnd& x, bool dest) {
      for (int i = 0; i < I.vec; i++) {
        const Opnd& e = x.k == 'v' ? x.v.at(i) : x;
        v.push_back(dest ? dst(e, T) : src(e, T));
      }
    };
    each(s1, false);
    if (cas)
      each(s2, false);
    else
      v.insert(v.end(), I.vec, SINK);
    each(d, true);
    I.ext = poolAdd(v);
    I.rs = (u8)std::max<int>(2, I.es);
    return fin(h_atom, I.space == SP_SHARED ? C_ATOMS : C_ATOMG);
  }
  if (b == "cp") {
    if (!has("async")) throw Unsup{opc};
    if (has("bulk") || has("mbarrier") || has("tensor") || has("reduce")) throw Unsup{opc};
    if (has("commit_group")) {
      return fin(h_cpcommit, C_CPASYNC);
    }
    if (has("wait_all")) {
      I.flag |= F_ALLACC;
      return fin(h_cpwait, C_CPASYNC);
    }
    if (has("wait_group")) {
      Opnd o = operand();
      I.imm = (i64)o.num.v;
      return fin(h_cpwait, C_CPASYNC);
    }
    auto o = opsAll();
    Inst J = I;
    addr(I, o.at(0));
    if (I.space == SP_GENERIC) I.space = SP_SHARED;
    addr(J, o.at(1));
    I.b = J.a;
    I.target = (u32)(i32)J.imm;
    if (J.flag & F_A32) throw Unsup{"32-bit global address"};
    I.n = (u32)o.at(2).num.v;
    I.c = SINK;
    I.e = SINK;
    if (I.n != 4 && I.n != 8 && I.n != 16) throw Unsup{"cp-size"};
    if (o.size() > 3) {
      if (o[3].k == 'r' && o[3].reg.pred)
        I.e = o[3].reg.off;
      else if (has("L2::cache_hint") && o.size() == 4) {
      } else
        I.c = src(o[3], T_U32);
    }
    return fin(h_cpasync, C_CPASYNC);
  }
  return false;
}

inline bool FuncCompiler::decodeMatrices() {
  if (b == "mma") {
    if (has("sp") || has("kind::mxf4") || has("kind::f8f6f4")) throw Unsup{opc};
    if (!has("row") || !has("col")) throw Unsup{"layout"};
    if (ty.size() != 4) throw Unsup{opc};
    Ty D = ty[0], A = ty[1], Bt = ty[2], Ct = ty[3];
    auto o = ops(4);
    int K = has("m16n8k4")    ? 4
            : has("m16n8k8")  ? 8
            : has("m16n8k16") ? 16
            : has("m16n8k32") ? 32
                              : 0;
    I.kind = K_COLL;
    I.op = CO_WARPOP;
    I.e = SINK;
    I.cls = C_MMA;
    I.flag |= F_ALIGNED;
    if (has("m8n8k4") && D == T_F64) {
      std::vector<u32> v;
      vecRegs(o[0], T_F64, v, true);
      vecRegs(o[1], T_F64, v, false);
      vecRegs(o[2], T_F64, v, false);
      vecRegs(o[3], T_F64, v, false);
      I.ext = poolAdd(v);
      I.flops = 2 * 8 * 8 * 4 / 32;
      I.fn = h_dmma;
      emit(I);
      return true;
    }
    bool ok = (A == T_F16 && Bt == T_F16 && (K == 8 || K == 16)) ||
              (A == T_BF16 && Bt == T_BF16 && (K == 8 || K == 16)) ||
              (A == T_TF32 && Bt == T_TF32 && (K == 4 || K == 8)) ||
              ((A == T_S8 || A == T_U8) && (Bt == T_S8 || Bt == T_U8) && (K == 16 || K == 32));
    if (!ok) throw Unsup{opc};
    std::vector<u32> d, a, bb, c;
    vecRegs(o[0], T_B32, d, true);
    vecRegs(o[1], T_B32, a, false);
    vecRegs(o[2], T_B32, bb, false);
    vecRegs(o[3], Ct == T_F32 ? T_F32 : T_B32, c, false);
    I.n = (u32)d.size();
    I.vec = (u8)a.size();
    I.rs2 = (u8)bb.size();
    I.es = (u8)K;
    I.ty = D;
    I.ty2 = A;
    I.space = Bt;
    I.rs = Ct;
    size_t na = A == T_TF32                                           ? (K == 8 ? 4 : 2)
                : (K == 16 && (A == T_F16 || A == T_BF16)) || K == 32 ? 4
                                                                      : 2;
    if (a.size() != na || bb.size() != na / 2 || d.size() != (D == T_F16 ? 2u : 4u) ||
        c.size() != (Ct == T_F16 ? 2u : 4u))
      throw Unsup{"mma fragment size"};
    std::vector<u32> v = d;
    v.insert(v.end(), a.begin(), a.end());
    v.insert(v.end(), bb.begin(), bb.end());
    v.insert(v.end(), c.begin(), c.end());
    I.ext = poolAdd(v);
    I.flops = (u16)(2 * 16 * 8 * K / 32);
    I.fn = h_mma;
    I.b = Ct == T_F16;
    emit(I);
    return true;
  }
  if (b == "ldmatrix" || b == "stmatrix") {
    if (!has("b16") || !has("m8n8")) throw Unsup{opc};
    bool st = b == "stmatrix";
    auto o = ops(2);
    std::vector<u32> v;
    vecRegs(st ? o[1] : o[0], T_B32, v, !st);
    I.space = SP_SHARED;
    addr(I, st ? o[0] : o[1]);
    I.vec = has("x1") ? 1 : has("x2") ? 2 : 4;
    if (v.size() != I.vec) throw Unsup{"register count"};
    I.ext = poolAdd(v);
    if (has("trans")) I.flag |= F_TRANS;
    I.flag |= F_ALIGNED;
    I.kind = K_COLL;
    I.op = CO_WARPOP;
    I.e = SINK;
    I.cls = C_LDMATRIX;
    I.fn = st ? h_stmatrix : h_ldmatrix;
    emit(I);
    return true;
  }
  if (b == "movmatrix") {
    auto o = ops(2);
    I.d = dst(o[0], T_B32);
    I.a = src(o[1], T_B32);
    I.kind = K_COLL;
    I.op = CO_WARPOP;
    I.e = SINK;
    I.cls = C_LDMATRIX;
    I.fn = h_movmatrix;
    I.flag |= F_ALIGNED;
    emit(I);
    return true;
  }
  if (b == "wmma") {
    int MM, NN, KK;
    bool f = false;
    for (auto& x : q)
      if (sscanf(x.c_str(), "m%dn%dk%d", &MM, &NN, &KK) == 3) {
        f = true;
        break;
      }
    if (!f) throw Unsup{opc};
    I.rs = (u8)MM;
    I.es = (u8)NN;
    I.vec = (u8)KK;
    I.kind = K_COLL;
    I.op = CO_WARPOP;
    I.e = SINK;
    I.flag |= F_ALIGNED;
    auto fr = [&](const Opnd& o, Ty t, std::vector<u32>& v, bool d) {
      vecRegs(o, t == T_F64 ? T_F64 : T_B32, v, d);
    };
    if (q[0] == "load" || q[0] == "store") {
      bool st = q[0] == "store";
      I.space = space();
      auto o = opsAll();
      const Opnd& fr0 = st ? o.at(1) : o.at(0);
      const Opnd& mem = st ? o.at(0) : o.at(1);
      std::vector<u32> v;
      fr(fr0, T, v, !st);
      addr(I, mem);
      I.n = (u32)v.size();
      I.ext = poolAdd(v);
      I.target = o.size() > 2 ? src(o[2], T_U32) : SINK;
      I.e = SINK;
      if (has("col")) I.flag |= F_TRANS;
      I.rs2 = st ? 2 : q[1] == "a" ? 0 : q[1] == "b" ? 1 : 2;
      I.cls = I.space == SP_SHARED ? (st ? C_STS : C_LDS) : (st ? C_STG : C_LDG);
      I.flag |= F_UNIFMASK;
      I.fn = h_wmma_ldst;
      I.b = st;
      emit(I);
      return true;
    }
    if (q[0] == "mma") {
      if (has("xor") || has("and")) throw Unsup{opc};
      std::vector<Ty> tt = ty;
      Ty D, A, Ct;
      if (tt.size() == 2) {
        D = tt[0];
        Ct = tt[1];
        A = T_F16;
      } else if (tt.size() == 4) {
        D = tt[0];
        A = tt[1];
        Ct = tt[3];
      } else
        throw Unsup{opc};
      auto o = ops(4);
      std::vector<u32> d, a, bb, c;
      fr(o[0], D, d, true);
      fr(o[1], A, a, false);
      fr(o[2], A, bb, false);
      fr(o[3], Ct, c, false);
      I.ty = D;
      I.ty2 = A;
      I.space = Ct;
      I.n = (u32)d.size();
      I.rs2 = (u8)a.size();
      I.b = (u32)bb.size();
      std::vector<u32> v = d;
      v.insert(v.end(), a.begin(), a.end());
      v.insert(v.end(), bb.begin(), bb.end());
      v.insert(v.end(), c.begin(), c.end());
      I.ext = poolAdd(v);
      I.cls = C_MMA;
      I.flops = (u16)(2 * MM * NN * KK / 32);
      I.fn = h_wmma_mma;
      emit(I);
      return true;
    }
  }
  return false;
}
