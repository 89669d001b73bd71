// Decodes moves, loads and stores, and integer and float arithmetic.
#pragma once

#include "function_compiler.h"

inline bool FuncCompiler::decodeMoves() {
  if ((T == T_U16X2 || T == T_S16X2) && (b == "add" || b == "min" || b == "max")) {
    I.op = b == "add" ? 0 : b == "min" ? 1 : 2;
    I.rs = T == T_S16X2;
    return op3(h_i16x2, C_INT, T_B32);
  }
  if (b == "mov") {
    auto o = ops(2);
    I.cls = C_MOV;
    auto packed = [&](const std::vector<u32>& registers, int size) {
      I.ext = poolAdd(registers);
      I.n = (u32)registers.size();
      I.es = (u8)size;
      I.rs = (u8)tySize(T);
    };
    if (T == T_PRED) {
      I.d = dst(o[0], T);
      I.a = src(o[1], T);
      if (o[1].bang) I.flag |= F_HI;
      return fin(h_pred1, C_PRED);
    }
    if (o[0].k == 'v') {
      std::vector<u32> v;
      int es = tySize(T) / (int)o[0].v.size();
      for (auto& x : o[0].v)
        v.push_back(x.k == '_' ? SINK
                               : (x.reg.size < es ? throw Unsup{"mov unpack size"} : x.reg.off));
      packed(v, es);
      I.a = src(o[1], T);
      return fin(h_unpack, C_MOV);
    }
    if (o[1].k == 'v') {
      std::vector<u32> v;
      int es = tySize(T) / (int)o[1].v.size();
      Ty et = es == 1 ? T_B8 : es == 2 ? T_B16 : T_B32;
      if (tySize(T) == 16) throw Unsup{"mov.b128"};
      for (auto& x : o[1].v) v.push_back(src(x, et));
      packed(v, es);
      I.d = dst(o[0], T);
      return fin(h_pack, C_MOV);
    }
    if (o[1].k == 'x' && o[1].special >= SPEC_CLOCK0 && o[1].special <= SPEC_CLOCK1) {
      I.d = dst(o[0], T);
      I.rs = (u8)tySize(T);
      return fin(h_clock, C_MOV);
    }
    I.d = dst(o[0], T);
    I.a = src(o[1], T);
    int s = tySize(T);
    return fin(s == 2   ? (Handler)h_un<u16, OMov>
               : s == 4 ? (Handler)h_un<u32, OMov>
               : s == 8 ? (Handler)h_un<u64, OMov>
                        : nullptr,
               C_MOV);
  }
  if (b == "ld" || b == "ldu" || b == "st") {
    bool st = b == "st";
    I.space = space();
    int vec = has("v2") ? 2 : has("v4") ? 4 : has("v8") ? 8 : 1;
    I.vec = (u8)vec;
    I.es = (u8)tySize(T);
    auto o = ops(2);
    const Opnd& mem = st ? o[0] : o[1];
    const Opnd& val = st ? o[1] : o[0];
    std::vector<Opnd> vals;
    if (val.k == 'v')
      vals = val.v;
    else
      vals.push_back(val);
    if ((int)vals.size() != vec) throw Unsup{"vector width"};
    std::vector<u32> v;
    int rs = 0;
    for (auto& x : vals) {
      if (x.k == '_') {
        v.push_back(SINK);
        continue;
      }
      if (st) {
        if (x.k == 'r') {
          v.push_back(x.reg.off);
          rs = x.reg.size;
        } else {
          int s = std::max(2, (int)I.es);
          v.push_back(src(x, T));
          if (!rs) rs = s;
        }
      } else {
        if (x.k != 'r') throw Unsup{"ld destination"};
        v.push_back(x.reg.off);
        rs = x.reg.size;
      }
    }
    if (st)
      for (size_t i = 0; i < vals.size(); i++)
        if (vals[i].k != 'r')
          v[i] = immReg(vals[i].k == 'n' ? immBits(vals[i], T) : 0, rs),
          v[i] = vals[i].k == 'n' ? v[i] : src(vals[i], T);
    if (!rs) rs = std::max(2, (int)I.es);
    I.rs = (u8)rs;
    if (rs < I.es) throw Unsup{"register narrower than memory type"};
    if (I.es > 8) throw Unsup{"128-bit element"};
    I.ext = poolAdd(v);
    if (I.space == SP_PARAM || (mem.k == 'm' && mem.v[0].k == 's' && I.space == SP_GENERIC)) {
      const Sym* s = mem.v[0].k == 's' ? find(mem.v[0].sym) : nullptr;
      if (s && s->k == 'K') {
        I.imm = s->off + mem.off;
        return fin(h_ldkp, C_PARAM);
      }
      if (s && s->k == 'P') {
        I.b = s->off;
        I.c = s->size;
        I.imm = mem.off;
        if (I.imm < 0 || I.imm + I.es * vec > (i64)s->size) throw Unsup{".param offset"};
        return fin(st ? (Handler)h_stp : (Handler)h_ldp, C_PARAM);
      }
    }
    addr(I, mem);
    Cls c = I.space == SP_SHARED  ? (st ? C_STS : C_LDS)
            : I.space == SP_LOCAL ? (st ? C_STL : C_LDL)
            : I.space == SP_CONST ? C_LDC
            : I.space == SP_PARAM ? C_PARAM
                                  : (st ? C_STG : C_LDG);
    return fin(st ? (Handler)h_st : (Handler)h_ld, c);
  }
  return false;
}

// Emits the operation if T is a float type. `number` is its own in the handlers that take several:
// directed rounding and pairs of float32. Each source but the first is a flop.
inline bool FuncCompiler::decodeFloat(const FloatHandlers& h, u8 number, int sources,
                                      Cls f32Class) {
  auto emitAs = [&](Handler handler, Cls cls, int values) {
    int flops = values * (sources - 1);
    return sources == 3 ? op4(handler, cls, T, flops) : op3(handler, cls, T, flops);
  };
  if (isHalf(T)) return emitAs(h.half, C_HALF, hw);
  if (T == T_F64) return emitAs(h.f64, C_F64, 1);
  if (T != T_F32 && T != T_F32X2) return false;
  if (T == T_F32 && I.rnd == R_RN) return emitAs(h.f32, f32Class, 1);
  I.op = number;
  return T == T_F32 ? emitAs(h_fdirected, f32Class, 1) : emitAs(h.f32x2, C_F32, 2);
}

inline bool FuncCompiler::decodeArithmetic() {
  if (b == "add" || b == "sub") {
    bool s = b == "sub";
    if (s ? decodeFloat({halfSel<HSUB>(T), F32_HANDLER(FSUB), h_d2<FSUB>, h_f32x2}, 1)
          : decodeFloat({halfSel<HADD>(T), F32_HANDLER(FADD), h_d2<FADD>, h_f32x2}, 0))
      return true;
    if (has("cc")) {
      I.op = s ? 2 : 0;
      return op3(WORD_HANDLER(T, h_carry), C_INT, T);
    }
    if (I.flag & F_SAT) {
      I.op = s;
      return op3(h_addsat, C_INT, T);
    }
    return op3(s ? ISEL2(T, h_bin, OSub) : ISEL2(T, h_bin, OAdd), C_INT, T);
  }
  if (b == "addc" || b == "subc") {
    I.op = b == "subc" ? 3 : 1;
    return op3(WORD_HANDLER(T, h_carry), C_INT, T);
  }
  if (b == "mul") {
    if (decodeFloat({halfSel<HMUL>(T), F32_HANDLER(FMUL), h_d2<FMUL>, h_f32x2}, 2)) return true;
    if (has("wide")) {
      if (tySize(T) > 4) throw Unsup{"mul.wide 64"};
      take(tySize(T) == 2 ? T_B32 : T_B64, {T, T});
      return fin(NARROW_HANDLER(T, h_mulwide), C_INT);
    }
    return op3(has("hi") ? ISEL(T, h_mulhi) : ISEL2(T, h_bin, OMul), C_INT, T);
  }
  if (b == "mad" || b == "madc" || b == "fma") {
    Handler f32 = fz ? h_ffma<true> : h_ffma<false>;
    if (decodeFloat({halfSel<HFMA>(T), f32, h_dfma, h_f32x2}, 3, 3)) return true;
    if (b == "madc" || has("cc")) {
      I.op = (b == "madc" ? 6 : 4) + (has("hi") ? 1 : 0);
      return op4(WORD_HANDLER(T, h_carry), C_INT, T);
    }
    if (has("wide")) {
      Ty W = tySize(T) == 2 ? T_B32 : T_B64;
      take(W, {T, T, W});
      return fin(NARROW_HANDLER(T, h_madwide), C_INT);
    }
    return op4(has("hi") ? ISEL(T, h_madhi) : ISEL(T, h_madlo), C_INT, T);
  }
  if (b == "div") {
    FloatHandlers handlers{nullptr, F32_HANDLER(FDIV), h_d2<FDIV>, nullptr};
    if (decodeFloat(handlers, 4, 2, C_SFU)) return true;
    return op3(ISEL2(T, h_bins, ODiv), C_INT, T);
  }
  if (b == "rem") {
    return op3(ISEL2(T, h_bins, ORem), C_INT, T);
  }
  if (b == "min" || b == "max") {
    bool mx = b == "max";
    if (has("xorsign")) I.flag |= F_XORSIGN;
    if (isHalf(T)) {
      if (I.flag & F_XORSIGN) throw Unsup{"xorsign on halves"};
      return op3(mx ? halfSel<HMAX>(T) : halfSel<HMIN>(T), C_HALF, T, hw);
    }
    if (T == T_F32) {
      auto o = opsAll();
      if (o.size() == 4) {
        Reg t = newReg(T_F32);
        Inst J = I;
        J.d = t.off;
        J.a = src(o[1], T);
        J.b = src(o[2], T);
        J.fn = mx ? h_fmm<true> : h_fmm<false>;
        J.cls = C_F32;
        J.flops = 1;
        emit(J);
        I.d = dst(o[0], T);
        I.a = t.off;
        I.b = src(o[3], T);
      } else {
        I.d = dst(o.at(0), T);
        I.a = src(o.at(1), T);
        I.b = src(o.at(2), T);
      }
      return fin(mx ? h_fmm<true> : h_fmm<false>, C_F32, 1);
    }
    if (T == T_F64) {
      return op3(mx ? h_d2<FMAX> : h_d2<FMIN>, C_F64, T, 1);
    }
    return op3(mx ? ISEL2(T, h_bin, OMax) : ISEL2(T, h_bin, OMin), C_INT, T);
  }
  if (b == "abs" || b == "neg") {
    bool n = b == "neg";
    if (isHalf(T)) {
      return op2(n ? halfSel<HNEG>(T) : halfSel<HABS>(T), C_HALF, T);
    }
    if (T == T_F32) {
      return op2(n ? h_f1<FNEG> : h_f1<FABS>, C_F32, T);
    }
    if (T == T_F64) {
      return op2(n ? h_d1<FNEG> : h_d1<FABS>, C_F64, T);
    }
    return op2(n ? ISEL2(T, h_un, ONeg) : ISEL2(T, h_un, OAbs), C_INT, T);
  }
  if (b == "rcp" || b == "sqrt" || b == "rsqrt" || b == "sin" || b == "cos" || b == "lg2" ||
      b == "ex2" || b == "tanh") {
    if (isHalf(T)) {
      if (b == "ex2")
        op2(halfSel<HEX2>(T), C_SFU, T, hw);
      else if (b == "tanh")
        op2(halfSel<HTANH>(T), C_SFU, T, hw);
      else
        throw Unsup{opc};
      return true;
    }
    if (T == T_F64) {
      if (b == "rcp")
        op2(h_d1<FRCP>, C_F64, T, 1);
      else if (b == "sqrt")
        op2(h_d1<FSQRT>, C_F64, T, 1);
      else if (b == "rsqrt")
        op2(h_d1<FRSQRT>, C_F64, T, 1);
      else
        throw Unsup{opc};
      return true;
    }
    if (I.rnd != R_RN && (b == "rcp" || b == "sqrt")) {
      I.op = b == "sqrt" ? 5 : 6;
      return op2(h_fdirected, C_SFU, T, 1);
    }
    Handler h = b == "rcp"     ? h_f1<FRCP>
                : b == "sqrt"  ? h_f1<FSQRT>
                : b == "rsqrt" ? h_f1<FRSQRT>
                : b == "sin"   ? h_f1<FSIN>
                : b == "cos"   ? h_f1<FCOS>
                : b == "lg2"   ? h_f1<FLG2>
                : b == "ex2"   ? h_f1<FEX2>
                               : h_f1<FTANH>;
    return op2(h, C_SFU, T, 1);
  }
  return false;
}
