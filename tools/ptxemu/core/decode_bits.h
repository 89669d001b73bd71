// Decodes bit operations and shifts.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeBits() {
  if (b == "and" || b == "or" || b == "xor") {
    if (T == T_PRED) {
      I.op = b == "and" ? 0 : b == "or" ? 1 : 2;
      auto o = take(T, {T, T});
      if (o[1].bang) I.flag |= F_HI;
      if (o[2].bang) I.flag |= F_NEGC;
      return fin(h_pred2, C_PRED);
    }
    return op3(b == "and"  ? ISEL2(T, h_bin, OAnd)
               : b == "or" ? ISEL2(T, h_bin, OOr)
                           : ISEL2(T, h_bin, OXor),
               C_LOGIC, T);
  }
  if (b == "not") {
    if (T == T_PRED) {
      I.op = 1;
      return op2(h_pred1, C_PRED, T);
    }
    return op2(ISEL2(T, h_un, ONot), C_LOGIC, T);
  }
  if (b == "cnot") {
    return op2(ISEL2(T, h_un, OCnot), C_LOGIC, T);
  }
  if (b == "shl" || b == "shr") {
    take(T, {T, T_U32});
    return fin(b == "shl" ? ISEL(T, h_shl) : ISEL(T, h_shr), C_LOGIC);
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
    return fin(h_lop3, C_LOGIC);
  }
  if (b == "popc" || b == "clz") {
    take(T_B32, {T});
    return fin(b == "popc" ? WORD_HANDLER(T, h_popc) : WORD_HANDLER(T, h_clz), C_LOGIC);
  }
  if (b == "brev") {
    return op2(WORD_HANDLER(T, h_brev), C_LOGIC, T);
  }
  if (b == "bfind") {
    I.op = has("shiftamt");
    take(T_B32, {T});
    return fin(ISEL(T, h_bfind), C_LOGIC);
  }
  if (b == "bfe") {
    take(T, {T, T_U32, T_U32});
    return fin(ISEL(T, h_bfe), C_LOGIC);
  }
  if (b == "bfi") {
    take(T, {T, T, T_U32, T_U32});
    return fin(WORD_HANDLER(T, h_bfi), C_LOGIC);
  }
  if (b == "prmt") {
    I.op = has("f4e")    ? 1
           : has("b4e")  ? 2
           : has("rc8")  ? 3
           : has("ecl")  ? 4
           : has("ecr")  ? 5
           : has("rc16") ? 6
                         : 0;
    return op4(h_prmt, C_LOGIC, T_B32);
  }
  if (b == "shf") {
    I.op = (has("r") ? 1 : 0) | (has("wrap") ? 2 : 0);
    return op4(h_shf, C_LOGIC, T_B32);
  }
  if (b == "sad") {
    I.op = T == T_S32;
    return op4(h_sad, C_INT, T);
  }
  if (b == "mul24" || b == "mad24") {
    I.op = (u8)((T == T_S32) | (has("hi") ? 2 : 0) | (b == "mad24" ? 4 : 0));
    return b == "mad24" ? op4(h_mul24, C_INT, T) : op3(h_mul24, C_INT, T);
  }
  if (b == "dp4a") {
    I.op = (u8)((ty.at(0) == T_S32) | (ty.at(1) == T_S32 ? 2 : 0));
    return op4(h_dp4a, C_INT, T_B32);
  }
  if (b == "bmsk") {
    I.op = has("wrap");
    return op3(h_bmsk, C_LOGIC, T_B32);
  }
  if (b == "szext") {
    I.op = (u8)((T == T_S32) | (has("wrap") ? 2 : 0));
    return op3(h_szext, C_LOGIC, T_B32);
  }
  if (b == "fns") {
    return op4(h_fns, C_LOGIC, T_B32);
  }
  if (b == "copysign") {
    return op3(T == T_F64 ? h_copysign64 : h_copysign32, C_F32, T);
  }
  if (b == "testp") {
    I.n = has("finite")       ? 0
          : has("infinite")   ? 1
          : has("number")     ? 2
          : has("notanumber") ? 3
          : has("normal")     ? 4
                              : 5;
    take(T_PRED, {T});
    return fin(h_testp, C_PRED);
  }
  return false;
}
