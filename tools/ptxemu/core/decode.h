// Decodes one instruction: what all have in common, then by kind.
#pragma once

#include <string>
#include <vector>

#include "decode_bits.h"
#include "decode_comparisons.h"
#include "decode_control.h"
#include "decode_data.h"
#include "decode_matrices.h"
#include "function_body.h"
#include "operand_parser.h"

inline void FuncCompiler::decode(const Inst& inst, const std::string& opcode) {
  I = inst;
  opc = opcode;
  q = split(opc);
  b = q[0];
  ty.clear();
  q.erase(q.begin());
  for (auto& x : q) {
    Ty t = typeOf(x);
    if (t != T_NONE) ty.push_back(t);
  }
  T = ty.empty() ? T_NONE : ty.back();
  I.ty = T;
  if (has("ftz")) I.flag |= F_FTZ;
  if (has("sat")) I.flag |= F_SAT;
  if (has("relu")) I.flag |= F_RELU;
  if (has("NaN")) I.flag |= F_NAN;
  if (has("cc")) I.flag |= F_CC;
  if (has("satfinite")) I.flag |= F_SATFIN;
  for (auto& x : q) {
    if (x == "rn" || x == "rni")
      I.rnd = R_RN;
    else if (x == "rz" || x == "rzi")
      I.rnd = R_RZ;
    else if (x == "rm" || x == "rmi")
      I.rnd = R_RM;
    else if (x == "rp" || x == "rpi")
      I.rnd = R_RP;
    else if (x == "rna")
      I.rnd = R_RNA;
  }
  fz = I.flag & F_FTZ;
  hw = (T == T_F16X2 || T == T_BF16X2) ? 2 : 1;
  if (decodeMoves() || decodeArithmetic() || decodeBits() || decodeComparisons() ||
      decodeControl() || decodeCollectives() || decodeAtomics() || decodeMatrices())
    return;
  throw Unsup{opc};
}
