// Decodes selections, comparisons and conversions.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeComparisons() {
  if (b == "selp") {
    auto o = take(T, {T, T, T_PRED});
    if (o[3].bang) I.flag |= F_NEGC;
    int s = tySize(T);
    return fin(s == 2   ? (Handler)h_selp<u16>
               : s == 4 ? (Handler)h_selp<u32>
                        : (Handler)h_selp<u64>,
               C_LOGIC);
  }
  if (b == "slct") {
    Ty D = ty.at(0), S = ty.at(1);
    take(D, {D, D, S});
    int s = tySize(D);
    return fin(S == T_S32 ? (s == 2   ? (Handler)h_slct<u16, i32>
                             : s == 4 ? (Handler)h_slct<u32, i32>
                                      : (Handler)h_slct<u64, i32>)
                          : (s == 2   ? (Handler)h_slct<u16, float>
                             : s == 4 ? (Handler)h_slct<u32, float>
                                      : (Handler)h_slct<u64, float>),
               C_LOGIC);
  }
  if (b == "setp" || b == "set") {
    static const std::map<std::string, int> CM = {
        {"eq", CEQ},   {"ne", CNE},   {"lt", CLT},   {"le", CLE},   {"gt", CGT},   {"ge", CGE},
        {"lo", CLT},   {"ls", CLE},   {"hi", CGT},   {"hs", CGE},   {"equ", CEQU}, {"neu", CNEU},
        {"ltu", CLTU}, {"leu", CLEU}, {"gtu", CGTU}, {"geu", CGEU}, {"num", CNUM}, {"nan", CNAN}};
    auto cm = CM.find(q.at(0));
    if (cm == CM.end()) throw Unsup{"comparison"};
    int c = cm->second;
    I.n = (u32)c;
    I.op = has("and") ? 1 : has("or") ? 2 : has("xor") ? 3 : 0;
    auto o = opsAll();
    size_t want = I.op ? 4 : 3;
    if (o.size() != want) throw Unsup{"operand count"};
    I.a = src(o[1], T);
    I.b = src(o[2], T);
    if (I.op) {
      I.c = src(o[3], T_PRED);
      if (o[3].bang) I.flag |= F_NEGC;
    }
    if (b == "set") {
      I.ty2 = ty.at(0);
      I.d = dst(o[0], ty.at(0));
      return fin(h_set, isHalf(T) ? C_HALF : C_PRED);
    }
    I.d = dst(withPredicate(o[0], I.e), T_PRED);
    if (isHalf(T)) {
      I.rs = (T == T_F16X2 || T == T_BF16X2) ? 2 : 1;
      return fin(h_setphalf, C_PRED);
    }
    Handler h = nullptr;
    if (T == T_F32)
      h = fz ? setpSel<float, true>(c) : setpSel<float, false>(c);
    else if (T == T_F64)
      h = setpSel<double, false>(c);
    else
      h = integerHandler(T, [c](auto x) { return setpSel<decltype(x), false>(c); });
    return fin(h, C_PRED);
  }
  if (b == "cvt") {
    if (has("pack")) {
      auto o = opsAll();
      Ty D = ty.at(0);
      I.ty = D;
      I.d = dst(o[0], T_B32);
      I.a = src(o[1], T_B32);
      I.b = src(o[2], T_B32);
      I.c = o.size() > 3 ? src(o[3], T_B32) : 0;
      return fin(h_cvtpacki, C_CVT);
    }
    if (ty.size() != 2) throw Unsup{"conversion type"};
    Ty D = ty[0], S = ty[1];
    I.ty = D;
    I.ty2 = S;
    if (D == T_F16X2 || D == T_BF16X2) {
      if (S != T_F32) throw Unsup{opc};
      take(T_B32, {T_F32, T_F32});
      return fin(h_cvtpack, C_CVT);
    }
    bool ir = has("rni") || has("rzi") || has("rmi") || has("rpi");
    bool rnd = ir || has("rn") || has("rz") || has("rm") || has("rp") || has("rna");
    auto o = ops(2);
    if (o[0].k != 'r') throw Unsup{"cvt destination"};
    I.d = o[0].reg.off;
    I.rs = (u8)o[0].reg.size;
    if (o[1].k == 'r') {
      I.a = o[1].reg.off;
      I.rs2 = (u8)o[1].reg.size;
    } else {
      I.a = src(o[1], S);
      I.rs2 = (u8)std::max(2, tySize(S));
    }
    if (isFloatTy(S) && o[1].k == 'r' && I.rs2 != tySize(S)) throw Unsup{"cvt source size"};
    if (isFloatTy(D) && I.rs != tySize(D)) throw Unsup{"cvt destination size"};
    if (isFloatTy(S) && !isFloatTy(D) && !rnd) I.rnd = R_RZ;
    I.n = isFloatTy(S) && isFloatTy(D) && ir;
    if (!rnd && isFloatTy(D)) I.rnd = R_RN;
    bool plain = !(I.flag & (F_SAT | F_FTZ | F_RELU | F_SATFIN));
    Handler h = h_cvt;
    if (plain) {
      if (D == T_F32 && S == T_F16)
        h = h_cvth2f;
      else if (D == T_F32 && S == T_BF16)
        h = h_cvtb2f;
      else if (D == T_F16 && S == T_F32 && I.rnd == R_RN && !I.n)
        h = h_cvtf2h;
      else if (isIntTy(D) && isIntTy(S)) {
        int ds = I.rs, ss = I.rs2;
        bool full = ds == tySize(D) && ss == tySize(S);
        if (full) {
          if (ds == 8 && ss == 4)
            h = isSigned(S) ? (Handler)h_cvtq<i64, i32> : (Handler)h_cvtq<u64, u32>;
          else if (ds == 4 && ss == 8)
            h = h_cvtq<u32, u64>;
          else if (ds == 4 && ss == 2)
            h = isSigned(S) ? (Handler)h_cvtq<i32, i16> : (Handler)h_cvtq<u32, u16>;
          else if (ds == 2 && ss == 4)
            h = h_cvtq<u16, u32>;
          else if (ds == 8 && ss == 2)
            h = isSigned(S) ? (Handler)h_cvtq<i64, i16> : (Handler)h_cvtq<u64, u16>;
          else if (ds == 2 && ss == 8)
            h = h_cvtq<u16, u64>;
          else if (ds == 4 && ss == 4)
            h = h_cvtq<u32, u32>;
        }
      } else if (D == T_F32 && S == T_S32 && I.rs2 == 4 && I.rnd == R_RN)
        h = h_cvtq<float, i32>;
      else if (D == T_F32 && S == T_U32 && I.rs2 == 4 && I.rnd == R_RN)
        h = h_cvtq<float, u32>;
      else if (D == T_F64 && S == T_F32)
        h = h_cvtq<double, float>;
      else if (D == T_F32 && S == T_F64 && I.rnd == R_RN && !I.n)
        h = h_cvtq<float, double>;
    }
    return fin(h, C_CVT);
  }
  if (b == "cvta") {
    bool to = has("to");
    I.space = space();
    auto o = ops(2);
    I.op = to;
    I.rs = (u8)tySize(T);
    I.d = dst(o[0], T);
    if (o[1].k == 's') {
      u64 a;
      Space sp;
      if (!symAddr(o[1].sym, a, sp)) throw Unsup{"unknown symbol " + o[1].sym};
      I.a = sp == SP_LOCAL ? localReg((i64)a + o[1].off, 8) : immReg(a + o[1].off, 8);
    } else
      I.a = src(o[1], T);
    return fin(h_cvta, C_INT);
  }
  if (b == "isspacep") {
    I.space = space();
    take(T_PRED, {T_B64});
    return fin(h_isspacep, C_PRED);
  }
  return false;
}
