// Functions of the device's runtime: printf and assertions.
#pragma once

#include <cstdio>
#include <string>

#include "frames.h"

static std::string hostStr(Warp& w, const Inst& I, int l, u64 a) {
  std::string s;
  for (int k = 0; k < 4096; k++) {
    char c = *(char*)resolve1(w, I, l, SP_GENERIC, a + k, 1, ACC_LD, false);
    if (!c) break;
    s += c;
  }
  return s;
}
static void builtinCall(Warp& w, const Inst& I, const CallSite& cs, u32 m) {
  auto arg = [&](int k, int l) {
    u64 v = 0;
    memcpy(&v, w.P + (size_t)cs.args.at(k).first * 32 + (size_t)l * cs.args[k].second, 8);
    return v;
  };
  if (cs.builtin == 2) {
    int l = __builtin_ctz(m);
    fault(w, I, l, "assert",
          "device assertion failed: " + hostStr(w, I, l, arg(0, l)) + " (" +
              hostStr(w, I, l, arg(1, l)) + ":" + std::to_string((u32)arg(2, l)) + ")");
  }
  EACH(
      if (w.C->out.size() < (1u << 20)) {
        std::string f = hostStr(w, I, i, arg(0, i));
        u64 ap = arg(1, i);
        u64 o = 0;
        std::string s;
        for (size_t k = 0; k < f.size(); k++) {
          if (f[k] != '%') {
            s += f[k];
            continue;
          }
          if (k + 1 < f.size() && f[k + 1] == '%') {
            s += '%';
            k++;
            continue;
          }
          size_t e = k + 1;
          while (e < f.size() && !strchr("diouxXfFeEgGaAcsp", f[e])) e++;
          if (e >= f.size()) break;
          std::string sp = f.substr(k, e - k + 1);
          char cv = f[e];
          char buf[256];
          bool l8 = sp.find("ll") != std::string::npos || sp.find('l') != std::string::npos ||
                    strchr("fFeEgGaAsp", cv);
          u32 n = l8 ? 8 : 4;
          o = (o + n - 1) / n * n;
          u64 v = 0;
          memcpy(&v, resolve1(w, I, i, SP_GENERIC, ap + o, n, ACC_LD, false), n);
          o += n;
          if (strchr("fFeEgGaA", cv))
            snprintf(buf, sizeof buf, sp.c_str(), bitcast<double>(v));
          else if (cv == 's')
            snprintf(buf, sizeof buf, sp.c_str(), hostStr(w, I, i, v).c_str());
          else if (cv == 'p')
            snprintf(buf, sizeof buf, "0x%llx", (unsigned long long)v);
          else if (l8)
            snprintf(buf, sizeof buf, sp.c_str(), v);
          else
            snprintf(buf, sizeof buf, sp.c_str(), (u32)v);
          s += buf;
          k = e;
        }
        w.C->out += s;
      } for (auto& r : cs.rets) {
        u32 z = 0;
        memcpy(w.P + (size_t)r.first * 32 + (size_t)i * r.second, &z, 4);
      });
}
