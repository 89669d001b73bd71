// Addresses of lanes translated to host pointers, every access checked.
#pragma once

#include "races.h"
#include "traffic.h"

static inline u8* gptr(Warp& w, const Inst& I, int lane, u64 a, u32 sz, int acc) {
  Ctx& C = *w.C;
  u64 idx = a >> VBITS;
  auto& R = *C.ranges;
  if (__builtin_expect(idx < R.size(), 1)) {
    Range& r = R[idx];
    u64 off = (a & VMASK) - r.voff;
    if (__builtin_expect(off < r.len && sz <= r.len - off, 1)) {
      if (__builtin_expect(r.ro && acc != ACC_LD, 0))
        fault(w, I, lane, "readonly", "write to read-only memory: " + addrName(C, a));
      return r.host + off;
    }
  }
  char b[120];
  snprintf(b, sizeof b, " (%u bytes, address 0x%llx)", sz, (unsigned long long)a);
  fault(w, I, lane, "oob",
        std::string("out-of-bounds ") +
            (acc == ACC_LD   ? "global read"
             : acc == ACC_ST ? "global write"
                             : "global atomic") +
            ": " + addrName(C, a) + b);
}
static u8* sptr(Warp& w, const Inst& I, int lane, u64 off, u32 sz, int acc) {
  Block& B = *w.B;
  if (off >= B.smemSize || off + sz > B.smemSize) {
    char b[160];
    snprintf(
        b, sizeof b,
        "out-of-bounds shared %s: byte offset %llu, %u bytes, block has %u bytes of shared memory",
        acc == ACC_LD ? "read" : "write", (unsigned long long)off, sz, B.smemSize);
    fault(w, I, lane, "oob", b);
  }
  return B.smem.data() + off;
}
static void sharedShadow(Warp& w, const Inst& I, int lane, u32 off, u32 sz, int acc, const u8* nv) {
  Block& B = *w.B;
  Ctx& C = *w.C;
  u8* s = B.sinit.data() + off;
  if (C.chkUninit) {
    if (acc != ACC_ST) {
      bool ok;
      switch (sz) {
        case 1:
          ok = s[0] == 1;
          break;
        case 2: {
          u16 v;
          memcpy(&v, s, 2);
          ok = v == 0x0101;
          break;
        }
        case 4: {
          u32 v;
          memcpy(&v, s, 4);
          ok = v == 0x01010101u;
          break;
        }
        case 8: {
          u64 v;
          memcpy(&v, s, 8);
          ok = v == 0x0101010101010101ull;
          break;
        }
        default: {
          ok = true;
          for (u32 k = 0; k < sz; k++) ok &= s[k] == 1;
        }
      }
      if (!ok) {
        bool pend = false;
        for (u32 k = 0; k < sz; k++) pend |= (s[k] & 2) != 0;
        char b[120];
        snprintf(
            b, sizeof b,
            pend ? "read of shared memory with a cp.async still in flight: byte offset %u, %u bytes"
                 : "read of uninitialised shared memory: byte offset %u, %u bytes",
            off, sz);
        (pend ? C.pendRead : C.uninit)++;
        C.warnAt(w, I, lane, pend ? 2 : 1, b);
      }
    }
    if (acc != ACC_LD)
      for (u32 k = 0; k < sz; k++) s[k] |= 1;
  }
  if (C.races) raceAcc(w, I, lane, off, sz, acc, nv);
}
static u8* lptr(Warp& w, const Inst& I, int lane, u64 off, u32 sz, int acc) {
  u32 lim = w.fr->localBase + w.fr->f->localSize;
  if (off >= lim || off + sz > lim) {
    char b[160];
    snprintf(b, sizeof b, "out-of-bounds local %s: byte offset %llu, %u bytes, thread has %u bytes",
             acc == ACC_LD ? "read" : "write", (unsigned long long)off, sz, lim);
    fault(w, I, lane, "oob", b);
  }
  return w.local.data() + (size_t)lane * w.localCap + off;
}
[[noreturn]] static void misaligned(Warp& w, const Inst& I, int lane, u64 a, u32 sz) {
  char b[120];
  snprintf(b, sizeof b, " needs %u-byte alignment, address 0x%llx: ", sz, (unsigned long long)a);
  fault(w, I, lane, "misaligned", std::string("misaligned access,") + b + addrName(*w.C, a));
}

// Translates the active lanes' addresses; fills P with host pointers, keeps statistics and shadows. nv: per-lane new bytes (stores).
static void resolve(Warp& w, const Inst& I, u32 m, int space, u32 sz, int acc, u32 aoff, i64 imm,
                    bool a32, u8** P, const u8 (*nv)[16] = nullptr) {
  Ctx& C = *w.C;
  alignas(64) u64 A[32];
  if (a32) {
    const u32* a = RG<u32>(w, aoff);
    for (int i = 0; i < 32; i++) A[i] = (u32)(a[i] + (u32)imm);
  } else {
    const u64* a = RG<u64>(w, aoff);
    for (int i = 0; i < 32; i++) A[i] = a[i] + (u64)imm;
  }
  u64 bad = 0;
  EACH(bad |= A[i];);
  if (bad & (sz - 1))
    EACH(if (A[i] & (sz - 1))
             misaligned(w, I, i, space == SP_SHARED ? (A[i] | SHIDX << VBITS) : A[i], sz););
  u32 ms = 0, ml = 0, mg = 0;
  if (space == SP_GENERIC) {
    EACH(u64 x = A[i] >> VBITS; if (x == SHIDX) ms |= 1u << i; else if (x == LOIDX) ml |= 1u << i;
         else mg |= 1u << i;);
  } else if (space == SP_SHARED)
    ms = m;
  else if (space == SP_LOCAL)
    ml = m;
  else
    mg = m;
  if (mg) {
    u32 mm = m;
    m = mg;
    EACH(P[i] = gptr(w, I, i, A[i], sz, acc););
    m = mm;
    if (C.stats && space != SP_CONST && space != SP_PARAM)
      sectorStat(C,
                 acc == ACC_LD   ? C.gld
                 : acc == ACC_ST ? C.gst
                                 : C.gat,
                 A, mg, sz, acc != ACC_LD);
    if (C.graces && space != SP_CONST && space != SP_PARAM) {
      u32 m2 = m;
      m = mg;
      EACH(globalRace(w, I, i, A[i], sz, acc););
      m = m2;
    }
  }
  if (ms) {
    u32 off[32];
    u32 mm = m;
    m = ms;
    EACH(u64 o = A[i] & VMASK; P[i] = sptr(w, I, i, o, sz, acc); off[i] = (u32)o;);
    if (C.stats) {
      bankStat(C, off, ms, sz);
      (acc == ACC_LD ? C.shBytesLd : C.shBytesSt) += (u64)__builtin_popcount(ms) * sz;
    }
    if (C.races || C.chkUninit)
      EACH(sharedShadow(w, I, i, off[i], sz, acc, nv ? nv[i] : nullptr);
           if (nv) memcpy(P[i], nv[i], sz););
    m = mm;
  }
  if (ml) {
    u32 mm = m;
    m = ml;
    EACH(P[i] = lptr(w, I, i, A[i] & VMASK, sz, acc););
    m = mm;
    C.lcBytes += (u64)__builtin_popcount(ml) * sz;
  }
}
// single-lane access (wmma, printf, ldmatrix rows)
static u8* resolve1(Warp& w, const Inst& I, int lane, int space, u64 a, u32 sz, int acc,
                    bool shadow = true) {
  u64 x = a >> VBITS;
  if (space == SP_SHARED || (space == SP_GENERIC && x == SHIDX)) {
    u8* p = sptr(w, I, lane, a & VMASK, sz, acc);
    if (shadow && (w.C->races || w.C->chkUninit))
      sharedShadow(w, I, lane, (u32)(a & VMASK), sz, acc, nullptr);
    return p;
  }
  if (space == SP_LOCAL || (space == SP_GENERIC && x == LOIDX))
    return lptr(w, I, lane, a & VMASK, sz, acc);
  return gptr(w, I, lane, a, sz, acc);
}
