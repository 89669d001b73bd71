// Matrix products of a whole warp, and what loads their fragments.
#pragma once

#include "memory_handlers.h"

static inline float tf32in(u32 b) {
  return bitcast<float>(b & 0xffffe000u);
}
static inline void mmaAB(Warp& w, const Inst& I, float A[16][32], float Bm[32][8]) {
  const u32* pl = w.C->prog->pool.data() + I.ext;
  const u32 *pa = pl + I.n,
            *pb = pa + I.vec;  // pool: D regs (n), A regs (vec), B regs (rs2), C regs
  int K = I.es;
  Ty at = (Ty)I.ty2;
  Ty bt = (Ty)I.space;
  for (int l = 0; l < 32; l++) {
    int g = l >> 2, t = l & 3;
    if (at == T_F16 || at == T_BF16) {
      bool bf = at == T_BF16;
      int na = K == 16 ? 4 : 2, nb = K == 16 ? 2 : 1;
      for (int r = 0; r < na; r++) {
        u32 v = RG<u32>(w, pa[r])[l];
        int row = g + (r & 1) * 8, col = t * 2 + (r >> 1) * 8;
        u16 lo = (u16)v, hi = (u16)(v >> 16);
        A[row][col] = bf ? b2f(lo) : h2f(lo);
        A[row][col + 1] = bf ? b2f(hi) : h2f(hi);
      }
      for (int r = 0; r < nb; r++) {
        u32 v = RG<u32>(w, pb[r])[l];
        int k = t * 2 + r * 8;
        u16 lo = (u16)v, hi = (u16)(v >> 16);
        Bm[k][g] = bf ? b2f(lo) : h2f(lo);
        Bm[k + 1][g] = bf ? b2f(hi) : h2f(hi);
      }
    } else if (at == T_TF32) {
      int na = K == 8 ? 4 : 2, nb = K == 8 ? 2 : 1;
      for (int r = 0; r < na; r++)
        A[g + (r & 1) * 8][t + (r >> 1) * 4] = tf32in(RG<u32>(w, pa[r])[l]);
      for (int r = 0; r < nb; r++) Bm[t + r * 4][g] = tf32in(RG<u32>(w, pb[r])[l]);
    } else {  // 8-bit integers
      int na = K == 32 ? 4 : 2, nb = K == 32 ? 2 : 1;
      for (int r = 0; r < na; r++) {
        u32 v = RG<u32>(w, pa[r])[l];
        int row = g + (r & 1) * 8, col = t * 4 + (r >> 1) * 16;
        for (int q = 0; q < 4; q++)
          A[row][col + q] = at == T_S8 ? (float)(i8)(v >> (8 * q)) : (float)(u8)(v >> (8 * q));
      }
      for (int r = 0; r < nb; r++) {
        u32 v = RG<u32>(w, pb[r])[l];
        for (int q = 0; q < 4; q++)
          Bm[t * 4 + r * 16 + q][g] =
              bt == T_S8 ? (float)(i8)(v >> (8 * q)) : (float)(u8)(v >> (8 * q));
      }
    }
  }
}
static void h_mma(Warp& w, const Inst& I,
                  u32 m) {  // m16n8kK; I.ty: D/C type F32, F16, S32; I.b: C type is f16
  float A[16][32], Bm[32][8];
  int K = I.es;
  mmaAB(w, I, A, Bm);
  const u32* pl = w.C->prog->pool.data() + I.ext;
  const u32* pc = pl + I.n + I.vec + I.rs2;
  double acc[16][8];
  for (int l = 0; l < 32; l++) {
    int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; r++) {
      int row = g + (r >> 1) * 8, col = t * 2 + (r & 1);
      acc[row][col] = I.b             ? (double)h2f(RG<u16>(w, pc[r >> 1])[2 * l + (r & 1)])
                      : I.ty == T_S32 ? (double)RG<i32>(w, pc[r])[l]
                                      : (double)RG<float>(w, pc[r])[l];
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < K; k++) {
      double a = A[i][k];
      for (int j = 0; j < 8; j++) acc[i][j] += a * (double)Bm[k][j];
    }
  for (int l = 0; l < 32; l++) {
    int g = l >> 2, t = l & 3;
    for (int r = 0; r < 4; r++) {
      double v = acc[g + (r >> 1) * 8][t * 2 + (r & 1)];
      if (I.ty == T_F16)
        RG<u16>(w, pl[r >> 1])[2 * l + (r & 1)] = d2h(v, R_RN);
      else if (I.ty == T_S32) {
        if (I.flag & F_SATFIN) v = std::min(std::max(v, -2147483648.0), 2147483647.0);
        RG<i32>(w, pl[r])[l] = (i32)(u32)(i64)v;
      } else
        RG<float>(w, pl[r])[l] = (float)v;
    }
  }
}
static void h_dmma(Warp& w, const Inst& I, u32 m) {  // m8n8k4 f64
  const u32* pl = w.C->prog->pool.data() + I.ext;
  const u32 *pa = pl + 2, *pb = pa + 1, *pc = pb + 1;
  double A[8][4], Bm[4][8], acc[8][8];
  for (int l = 0; l < 32; l++) {
    A[l >> 2][l & 3] = RG<double>(w, pa[0])[l];
    Bm[l & 3][l >> 2] = RG<double>(w, pb[0])[l];
    for (int r = 0; r < 2; r++) acc[l >> 2][(l & 3) * 2 + r] = RG<double>(w, pc[r])[l];
  }
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 8; j++)
      for (int k = 0; k < 4; k++) acc[i][j] = std::fma(A[i][k], Bm[k][j], acc[i][j]);
  for (int l = 0; l < 32; l++)
    for (int r = 0; r < 2; r++) RG<double>(w, pl[r])[l] = acc[l >> 2][(l & 3) * 2 + r];
}
static void matAddrs(Warp& w, const Inst& I, u64* A, int rows) {
  if (I.flag & F_A32)
    for (int i = 0; i < rows; i++) A[i] = (u32)(RG<u32>(w, I.a)[i] + (u32)I.imm);
  else
    for (int i = 0; i < rows; i++) A[i] = (RG<u64>(w, I.a)[i] + (u64)I.imm) & VMASK;
}
static void h_ldmatrix(Warp& w, const Inst& I, u32 m) {  // vec matrices, F_TRANS
  u64 A[32];
  int rows = 8 * I.vec;
  matAddrs(w, I, A, rows);
  u8* P[32];
  u32 off[32];
  const u32* pl = w.C->prog->pool.data() + I.ext;
  for (int i = 0; i < rows; i++) {
    if (A[i] & 15) misaligned(w, I, i, A[i] | SHIDX << VBITS, 16);
    P[i] = resolve1(w, I, i, SP_SHARED, A[i], 16, ACC_LD);
    off[i] = (u32)A[i];
    if (w.C->races) {
      for (u32 q = 0; q < 16; q += 4) {
        u32 o = off[i] + q;
        if (!w.B->split[o >> 2])
          w.B->rsW[o >> 2].am = 1;
        else
          for (int z = 0; z < 4; z++) w.B->rsB[o + z].am = 1;
      }
    }
  }
  if (w.C->stats) {
    bankStat(*w.C, off, rows == 32 ? ~0u : (1u << rows) - 1, 16);
    w.C->shBytesLd += (u64)rows * 16;
  }
  u32 out[4][32];
  for (int j = 0; j < I.vec; j++)
    for (int l = 0; l < 32; l++) {
      u16 x, y;
      int r = l >> 2, c = (l & 3) * 2;
      if (I.flag & F_TRANS) {
        memcpy(&x, P[j * 8 + c] + 2 * r, 2);
        memcpy(&y, P[j * 8 + c + 1] + 2 * r, 2);
      } else {
        memcpy(&x, P[j * 8 + r] + 2 * c, 2);
        memcpy(&y, P[j * 8 + r] + 2 * c + 2, 2);
      }
      out[j][l] = (u32)x | (u32)y << 16;
    }
  for (int j = 0; j < I.vec; j++) memcpy(RG<u32>(w, pl[j]), out[j], 128);
}
static void h_stmatrix(Warp& w, const Inst& I, u32 m) {
  u64 A[32];
  int rows = 8 * I.vec;
  matAddrs(w, I, A, rows);
  u32 off[32];
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u16 M[32][8];
  for (int j = 0; j < I.vec; j++)
    for (int l = 0; l < 32; l++) {
      u32 v = RG<u32>(w, pl[j])[l];
      int r = l >> 2, c = (l & 3) * 2;
      if (I.flag & F_TRANS) {
        M[j * 8 + c][r] = (u16)v;
        M[j * 8 + c + 1][r] = (u16)(v >> 16);
      } else {
        M[j * 8 + r][c] = (u16)v;
        M[j * 8 + r][c + 1] = (u16)(v >> 16);
      }
    }
  for (int i = 0; i < rows; i++) {
    if (A[i] & 15) misaligned(w, I, i, A[i] | SHIDX << VBITS, 16);
    u8* p = resolve1(w, I, i, SP_SHARED, A[i], 16, ACC_ST);
    memcpy(p, M[i], 16);
    off[i] = (u32)A[i];
  }
  if (w.C->stats) {
    bankStat(*w.C, off, rows == 32 ? ~0u : (1u << rows) - 1, 16);
    w.C->shBytesSt += (u64)rows * 16;
  }
}
static void h_movmatrix(Warp& w, const Inst& I, u32 m) {
  u16 M[8][8];
  const u32* a = RG<u32>(w, I.a);
  u32* d = RG<u32>(w, I.d);
  for (int l = 0; l < 32; l++) {
    M[l >> 2][(l & 3) * 2] = (u16)a[l];
    M[l >> 2][(l & 3) * 2 + 1] = (u16)(a[l] >> 16);
  }
  for (int l = 0; l < 32; l++)
    d[l] = (u32)M[(l & 3) * 2][l >> 2] | (u32)M[(l & 3) * 2 + 1][l >> 2] << 16;
}

// wmma: element -> (lane, slot) maps. Accumulator and operands follow the m16n8k* fragment shapes, tiled over n for m16n16.
struct WShape {
  int M, N, K;
};
// which: 0 a, 1 b, 2 acc. Returns number of elements held per lane; fills row/col.
static int wmmaMap(int which, WShape s, Ty t, int lane, int* row, int* col) {
  int R = which == 1 ? s.K : s.M, Cc = which == 0 ? s.K : s.N;
  int per = R * Cc / 32;
  int g = lane >> 2, q = lane & 3;
  if (which == 2 && s.M == 16 && s.N == 16) {
    for (int e = 0; e < 8; e++) {
      row[e] = g + ((e >> 1) & 1) * 8;
      col[e] = q * 2 + (e & 1) + (e >> 2) * 8;
    }
    return 8;
  }
  for (int e = 0; e < per; e++) {
    int idx = lane * per + e;
    row[e] = idx / Cc;
    col[e] = idx % Cc;
  }
  return per;
}
static void h_wmma_ldst(
    Warp& w, const Inst& I,
    u32 m) {  // b: 0 load, 1 store; rs2: which; ty elem type; n regs; pool regs; target: stride reg; F_TRANS: column major
  WShape s = {I.rs, I.es, I.vec};
  const u32* pl = w.C->prog->pool.data() + I.ext;
  u64 ad[32];
  int which = I.rs2;
  Ty t = (Ty)I.ty;
  int esz = t == T_TF32 || t == T_F32 || t == T_S32 ? 4
            : t == T_F64                            ? 8
            : t == T_S8 || t == T_U8                ? 1
                                                    : 2;
  int R = which == 1 ? s.K : s.M, Cc = which == 0 ? s.K : s.N;
  bool cm = I.flag & F_TRANS;
  u64 bytes = 0;
  std::set<u64> secs;
  Ctx& C = *w.C;
  bool isGlobal = true;
  for (int l = 0; l < 32; l++) {
    ad[l] = ((I.flag & F_A32) ? (u64)(u32)(RG<u32>(w, I.a)[l] + (u32)I.imm)
                              : RG<u64>(w, I.a)[l] + (u64)I.imm);
    u32 ld = I.target != SINK ? RG<u32>(w, I.target)[l] : (cm ? R : Cc);
    if (I.space == SP_SHARED || (ad[l] >> VBITS) == SHIDX) isGlobal = false;
    int row[64], col[64];
    int n = wmmaMap(which, s, t, l, row, col);
    int nreg = (int)I.n;
    int perReg = esz >= 4 ? 1 : 4 / esz;
    int slots = nreg * perReg;
    for (int e = 0; e < slots; e++) {
      int q = e % n;
      u64 el = cm ? (u64)col[q] * ld + row[q] : (u64)row[q] * ld + col[q];
      u64 a = ad[l] + el * esz;
      if (a & (esz - 1)) misaligned(w, I, l, a, esz);
      if (I.b == 1 && e >= n) continue;
      u8* p = resolve1(w, I, l, I.space, a, esz, I.b ? ACC_ST : ACC_LD);
      if (e < n) {
        bytes += esz;
        secs.insert(a >> 5);
      }
      u8* reg = w.R + pl[e / perReg] + (size_t)l * (esz == 8 ? 8 : 4) + (e % perReg) * esz;
      if (I.b)
        memcpy(p, reg, esz);
      else
        memcpy(reg, p, esz);
    }
  }
  if (isGlobal) {
    MemStat& S = I.b ? C.gst : C.gld;
    S.req++;
    S.bytes += bytes;
    S.sectors += secs.size();
    u64 pv = ~0ull;
    for (u64 x : secs) {
      if ((x >> 2) != pv) {
        S.lines++;
        pv = x >> 2;
      }
      auto& bm = I.b ? C.bmW : C.bmR;
      u64 idx = (x << 5) >> VBITS;
      if (idx < C.ranges->size()) {
        auto& v = bm[idx];
        if (v.empty()) v.resize((((*C.ranges)[idx].len + (*C.ranges)[idx].voff) >> 11) + 2, 0);
        u64 sx = x & (VMASK >> 5);
        if ((sx >> 6) < v.size()) v[sx >> 6] |= 1ull << (sx & 63);
      }
    }
  }
}
static void h_wmma_mma(
    Warp& w, const Inst& I,
    u32 m) {  // rs,es,vec = M,N,K; n = D regs; rs2 = A regs; b = B regs; ty D type; ty2 A/B type; space = C type
  WShape s = {I.rs, I.es, I.vec};
  const u32* pl = w.C->prog->pool.data() + I.ext;
  const u32 *pa = pl + I.n, *pb = pa + I.rs2, *pc = pb + I.b;
  Ty at = (Ty)I.ty2;
  std::vector<double> A(s.M * s.K), Bm(s.K * s.N), Cm(s.M * s.N);
  auto rd = [&](Ty t, const u32* p, int l, int e) -> double {
    switch (t) {
      case T_F32:
        return RG<float>(w, p[e])[l];
      case T_TF32:
        return tf32in(RG<u32>(w, p[e])[l]);
      case T_F64:
        return RG<double>(w, p[e])[l];
      case T_S32:
        return RG<i32>(w, p[e])[l];
      case T_S8:
        return (i8)(RG<u32>(w, p[e / 4])[l] >> (8 * (e & 3)));
      case T_U8:
        return (u8)(RG<u32>(w, p[e / 4])[l] >> (8 * (e & 3)));
      case T_BF16:
        return b2f(RG<u16>(w, p[e / 2])[2 * l + (e & 1)]);
      default:
        return h2f(RG<u16>(w, p[e / 2])[2 * l + (e & 1)]);
    }
  };
  int row[64], col[64];
  for (int l = 0; l < 32; l++) {
    int n = wmmaMap(0, s, at, l, row, col);
    for (int e = 0; e < n; e++) A[row[e] * s.K + col[e]] = rd(at, pa, l, e);
    n = wmmaMap(1, s, at, l, row, col);
    for (int e = 0; e < n; e++) Bm[row[e] * s.N + col[e]] = rd(at, pb, l, e);
    n = wmmaMap(2, s, at, l, row, col);
    for (int e = 0; e < n; e++) Cm[row[e] * s.N + col[e]] = rd((Ty)I.space, pc, l, e);
  }
  for (int i = 0; i < s.M; i++)
    for (int k = 0; k < s.K; k++)
      for (int j = 0; j < s.N; j++) Cm[i * s.N + j] += A[i * s.K + k] * Bm[k * s.N + j];
  for (int l = 0; l < 32; l++) {
    int n = wmmaMap(2, s, at, l, row, col);
    for (int e = 0; e < n; e++) {
      double v = Cm[row[e] * s.N + col[e]];
      switch ((Ty)I.ty) {
        case T_F32:
          RG<float>(w, pl[e])[l] = (float)v;
          break;
        case T_F64:
          RG<double>(w, pl[e])[l] = v;
          break;
        case T_S32:
          RG<i32>(w, pl[e])[l] = (i32)v;
          break;
        default:
          RG<u16>(w, pl[e / 2])[2 * l + (e & 1)] = d2h(v, R_RN);
      }
    }
  }
}
