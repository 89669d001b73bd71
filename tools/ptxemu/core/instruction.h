// Decoded instructions, and a kernel as an array of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "module.h"

enum Kind : u8 { K_ALU, K_BRA, K_BRX, K_RET, K_EXIT, K_CALL, K_BAR, K_COLL, K_TRAP };
enum Cls : u8 {
  C_INT,
  C_F32,
  C_F64,
  C_HALF,
  C_SFU,
  C_CVT,
  C_MOV,
  C_LOGIC,
  C_PRED,
  C_LDG,
  C_STG,
  C_LDS,
  C_STS,
  C_LDL,
  C_STL,
  C_LDC,
  C_PARAM,
  C_ATOMG,
  C_ATOMS,
  C_SHFL,
  C_VOTE,
  C_BAR,
  C_BRANCH,
  C_MMA,
  C_LDMATRIX,
  C_CPASYNC,
  C_OTHER,
  C_NUM
};
static const char* clsName[C_NUM] = {
    "int",      "f32",      "f64",       "half",        "sfu",         "cvt",       "mov",
    "logic",    "pred",     "ld_global", "st_global",   "ld_shared",   "st_shared", "ld_local",
    "st_local", "ld_const", "param",     "atom_global", "atom_shared", "shuffle",   "vote",
    "barrier",  "branch",   "mma",       "ldmatrix",    "cp_async",    "other"};

struct Warp;
struct Inst;
struct Block;
struct Ctx;
struct Prog;
typedef void (*Handler)(Warp&, const Inst&, u32);

enum Flag : u32 {
  F_FTZ = 1,
  F_SAT = 2,
  F_RELU = 4,
  F_A32 = 8,
  F_NAN = 16,
  F_TRANS = 32,
  F_ALIGNED = 64,
  F_HI = 128,
  F_WIDE = 256,
  F_NEGC = 512,
  F_ROWA = 1024,
  F_ROWB = 2048,
  F_A2_32 = 4096,
  F_CC = 8192,
  F_SATFIN = 16384,
  F_XORSIGN = 32768,
  F_UNIFMASK = 65536,
  F_ALLACC = 1 << 17
};
enum Rnd : u8 { R_RN, R_RZ, R_RM, R_RP, R_RNA, R_NONE };
static const u32 NOG = 0xffffffffu, SINK = 0xfffffffeu;

struct Inst {
  Handler fn = nullptr;
  u8 kind = K_ALU, cls = C_OTHER, ty = 0, ty2 = 0, rs = 0, rs2 = 0, es = 0, vec = 1, space = 0,
     rnd = R_RN, gneg = 0, op = 0;
  u16 flops = 0;
  u32 flag = 0;
  u32 guard = NOG, d = SINK, a = 0, b = 0, c = 0, e = 0, ext = 0, n = 0, target = 0;
  i64 imm = 0;
  u32 line = 0, sfile = 0, sline = 0, sig = 0;
  int fidx = 0;
};

struct FuncC {
  std::string name;
  u32 entry = 0, regBytes = 0, fixBytes = 0, localSize = 0, pBytes = 0;
  std::vector<u8> image;
  struct Spec {
    u32 id, off;
    i64 val = 0; /* id 0x1000: address of a local variable at offset val of the frame */
  };
  std::vector<Spec> specs;
  struct P {
    std::string name;
    u32 off, size, align;
  };
  std::vector<P> params, rets;
};
struct CallSite {
  u32 func;
  int builtin = 0;
  std::vector<std::pair<u32, u32>> args, rets;
};  // (area offset, size)
struct Prog {
  std::vector<Inst> code;
  std::vector<std::unique_ptr<FuncC>> funcs;
  std::vector<u32> pool;
  std::vector<CallSite> calls;
  std::vector<std::vector<u32>> tables;
  std::vector<std::string> messages;
  u32 staticShared = 0;
  u32 paramBytes = 0;
  std::vector<FuncC::P> kparams;
  std::string name;
};
