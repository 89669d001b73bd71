// Messages that name the kernel, the thread, the line and the array.
#pragma once

#include <string>

#include "machine.h"

static std::string where(Warp& w, const Inst& I, int lane) {
  Block& B = *w.B;
  Ctx& C = *w.C;
  u32 t = w.id * 32 + lane;
  u32 tx = t % C.block[0], ty = t / C.block[0] % C.block[1], tz = t / C.block[0] / C.block[1];
  char buf[256];
  snprintf(buf, sizeof buf,
           "kernel %s, block (%u,%u,%u), thread (%u,%u,%u), PTX line %u: ", C.prog->name.c_str(),
           B.bid[0], B.bid[1], B.bid[2], tx, ty, tz, I.line);
  std::string s = buf;
  s += "`" + C.mod->srcLine(I.line) + "`";
  if (I.sline) {
    auto it = C.mod->files.find(I.sfile);
    s += " [" + (it == C.mod->files.end() ? std::string("?") : it->second) + ":" +
         std::to_string(I.sline) + "]";
  }
  return s;
}
void Ctx::warnAt(Warp& w, const Inst& I, int lane, int kind, const std::string& m) {
  u64& n = wseen[{(u32)(&I - prog->code.data()), kind}];
  n++;
  if (n == 1 && warn.size() < 40) warn.push_back(m + " at " + where(w, I, lane));
}
[[noreturn]] static void fault(Warp& w, const Inst& I, int lane, const std::string& kind,
                               const std::string& m) {
  throw EmuError(kind, m + " at " + where(w, I, lane));
}

static std::string addrName(Ctx& C, u64 a) {
  u64 idx = a >> VBITS;
  char b[200];
  if (idx == SHIDX) {
    snprintf(b, sizeof b, "shared+%llu", (unsigned long long)(a & VMASK));
    return b;
  }
  if (idx == LOIDX) {
    snprintf(b, sizeof b, "local+%llu", (unsigned long long)(a & VMASK));
    return b;
  }
  i64 best = -1;
  i64 off = 0;
  if (idx < C.ranges->size() && (*C.ranges)[idx].host) {
    best = (i64)idx;
    off = (i64)(a & VMASK) - (i64)(*C.ranges)[idx].voff;
  }
  if (idx + 1 < C.ranges->size() && (*C.ranges)[idx + 1].host && (a & VMASK) > (VMASK >> 1)) {
    best = (i64)idx + 1;
    off = (i64)(a & VMASK) - (i64)(VMASK + 1) - (i64)(*C.ranges)[idx + 1].voff;
  }
  if (best < 0) {
    snprintf(b, sizeof b, "address 0x%llx, which belongs to no array", (unsigned long long)a);
    return b;
  }
  Range& r = (*C.ranges)[best];
  snprintf(b, sizeof b, " byte offset %lld of %llu bytes", (long long)off,
           (unsigned long long)r.len);
  return r.name + b;
}
