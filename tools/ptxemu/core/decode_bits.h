// Decodes bit operations and shifts.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeBits() {
  if (b == "and" || b == "or" || b == "xor") {
    if (T == T_PRED) {
      auto o = ops(3);
      I.op = b == "and" ? 0 : b == "or" ? 1 : 2;
      I.d = dst(o[0], T);
      I.a = src(o[1], T);
      I.b = src(o[2], T);
      if (o[1].bang) I.flag |= F_HI;
      if (o[2].bang) I.flag |= F_NEGC;
      fin(h_pred2, C_PRED);
      return true;
    }
    op3(b == "and"  ? ISEL2(T, h_bin, OAnd)
        : b == "or" ? ISEL2(T, h_bin, OOr)
                    : ISEL2(T, h_bin, OXor),
        C_LOGIC, T);
    return true;
  }
  if (b == "not") {
    if (T == T_PRED) {
      auto o = ops(2);
      I.op = 1;
      I.d = dst(o[0], T);
      I.a = src(o[1], T);
      fin(h_pred1, C_PRED);
      return true;
    }
    op2(ISEL2(T, h_un, ONot), C_LOGIC, T);
    return true;
  }
  if (b == "cnot") {
    op2(ISEL2(T, h_un, OCnot), C_LOGIC, T);
    return true;
  }
  if (b == "shl" || b == "shr") {
    auto o = ops(3);
    I.d = dst(o[0], T);
    I.a = src(o[1], T);
    I.b = src(o[2], T_U32);
    fin(b == "shl" ? ISEL(T, h_shl) : ISEL(T, h_shr), C_LOGIC);
    return true;
  }
  if (b == "lop3") {
    bool bo = has("or") || has("and");
    auto o = opsAll();
    Opnd d0 = o.at(0);
    Opnd pd;
    if (d0.k == '|') {
      pd = d0.v[1];
      d0 = d0.v[0];
    }
    (void)bo;
    if (o.size() != 5) throw Unsup{"lop3 with predicate output"};
    I.d = dst(d0, T);
    I.a = src(o[1], T);
    I.b = src(o[2], T);
    I.c = src(o[3], T);
    I.imm = (i64)o[4].num.v;
    fin(h_lop3, C_LOGIC);
    return true;
  }
  if (b == "popc" || b == "clz") {
    auto o = ops(2);
    I.d = dst(o[0], T_B32);
    I.a = src(o[1], T);
    bool w = tySize(T) == 8;
    fin(b == "popc" ? (w ? (Handler)h_popc<u64> : (Handler)h_popc<u32>)
                    : (w ? (Handler)h_clz<u64> : (Handler)h_clz<u32>),
        C_LOGIC);
    return true;
  }
  if (b == "brev") {
    op2(tySize(T) == 8 ? (Handler)h_brev<u64> : (Handler)h_brev<u32>, C_LOGIC, T);
    return true;
  }
  if (b == "bfind") {
    auto o = ops(2);
    I.op = has("shiftamt");
    I.d = dst(o[0], T_B32);
    I.a = src(o[1], T);
    fin(T == T_U32   ? (Handler)h_bfind<u32>
        : T == T_S32 ? (Handler)h_bfind<i32>
        : T == T_U64 ? (Handler)h_bfind<u64>
                     : (Handler)h_bfind<i64>,
        C_LOGIC);
    return true;
  }
  if (b == "bfe") {
    auto o = ops(4);
    I.d = dst(o[0], T);
    I.a = src(o[1], T);
    I.b = src(o[2], T_U32);
    I.c = src(o[3], T_U32);
    fin(T == T_U32   ? (Handler)h_bfe<u32>
        : T == T_S32 ? (Handler)h_bfe<i32>
        : T == T_U64 ? (Handler)h_bfe<u64>
                     : (Handler)h_bfe<i64>,
        C_LOGIC);
    return true;
  }
  if (b == "bfi") {
    auto o = ops(5);
    I.d = dst(o[0], T);
    I.a = src(o[1], T);
    I.b = src(o[2], T);
    I.c = src(o[3], T_U32);
    I.e = src(o[4], T_U32);
    fin(tySize(T) == 8 ? (Handler)h_bfi<u64> : (Handler)h_bfi<u32>, C_LOGIC);
    return true;
  }
  if (b == "prmt") {
    I.op = has("f4e")    ? 1
           : has("b4e")  ? 2
           : has("rc8")  ? 3
           : has("ecl")  ? 4
           : has("ecr")  ? 5
           : has("rc16") ? 6
                         : 0;
    op4(h_prmt, C_LOGIC, T_B32);
    return true;
  }
  if (b == "shf") {
    I.op = (has("r") ? 1 : 0) | (has("wrap") ? 2 : 0);
    op4(h_shf, C_LOGIC, T_B32);
    return true;
  }
  if (b == "sad") {
    I.op = T == T_S32;
    op4(h_sad, C_INT, T);
    return true;
  }
  if (b == "mul24" || b == "mad24") {
    I.op = (u8)((T == T_S32) | (has("hi") ? 2 : 0) | (b == "mad24" ? 4 : 0));
    if (b == "mad24")
      op4(h_mul24, C_INT, T);
    else
      op3(h_mul24, C_INT, T);
    return true;
  }
  if (b == "dp4a") {
    auto o = ops(4);
    I.op = (u8)((ty.at(0) == T_S32) | (ty.at(1) == T_S32 ? 2 : 0));
    I.d = dst(o[0], T_B32);
    I.a = src(o[1], T_B32);
    I.b = src(o[2], T_B32);
    I.c = src(o[3], T_B32);
    fin(h_dp4a, C_INT);
    return true;
  }
  if (b == "bmsk") {
    I.op = has("wrap");
    op3(h_bmsk, C_LOGIC, T_B32);
    return true;
  }
  if (b == "szext") {
    I.op = (u8)((T == T_S32) | (has("wrap") ? 2 : 0));
    op3(h_szext, C_LOGIC, T_B32);
    return true;
  }
  if (b == "fns") {
    op4(h_fns, C_LOGIC, T_B32);
    return true;
  }
  if (b == "copysign") {
    op3(T == T_F64 ? h_copysign64 : h_copysign32, C_F32, T);
    return true;
  }
  if (b == "testp") {
    auto o = ops(2);
    I.n = has("finite")       ? 0
          : has("infinite")   ? 1
          : has("number")     ? 2
          : has("notanumber") ? 3
          : has("normal")     ? 4
                              : 5;
    I.d = dst(o[0], T_PRED);
    I.a = src(o[1], T);
    fin(h_testp, C_PRED);
    return true;
  }
  return false;
}
