// Reads an operand of an instruction.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "function_compiler.h"

inline Opnd FuncCompiler::operand() {
  Opnd o;
  if (is("!")) {
    p++;
    o = operand();
    o.bang = !o.bang;
    return o;
  }
  if (is("-")) {
    p++;
    o = operand();
    if (o.k != 'n') M.err(p, "unary minus on non-constant");
    o.neg = !o.neg;
    return o;
  }
  if (is("(")) {
    p++;
    o = operand();
    need(")");
    return o;
  }
  if (is("{")) {
    p++;
    o.k = 'v';
    while (!is("}")) {
      if (is(",")) {
        p++;
        continue;
      }
      o.v.push_back(operand());
    }
    p++;
    return o;
  }
  if (is("[")) {
    p++;
    o.k = 'm';
    Opnd b = operand();
    o.v.push_back(b);
    o.off = b.off;
    o.v[0].off = 0;
    if (b.k == 'n') {
      o.off = 0;
    }
    while (is("+") || is("-")) {
      bool ng = is("-");
      p++;
      if (is("-")) {
        ng = !ng;
        p++;
      }
      i64 x = (i64)parseInt(M.tk[p++].s);
      o.off += ng ? -x : x;
    }
    if (is(",")) throw Unsup{"multi-operand address (tensor/bulk)"};
    need("]");
    return o;
  }
  const Tok& t = M.tk[p];
  if (t.k == 'n') {
    o.k = 'n';
    o.num = parseNum(t.s);
    p++;
    return o;
  }
  if (t.k == 'i') {
    p++;
    if (t.s == "_")
      o.k = '_';
    else if (const Sym* s = find(t.s)) {
      if (s->k == 'r') {
        o.k = 'r';
        o.reg = s->r;
        o.sym = t.s;
      } else {
        o.k = 's';
        o.sym = t.s;
      }
    } else if (t.s == "WARP_SZ") {
      o.k = 'n';
      o.num.v = 32;
    } else if (int id = specialId(t.s); id >= 0) {
      o.k = 'x';
      o.special = id;
    } else if (t.s[0] == '%' && M.vars.find(t.s) == M.vars.end())
      throw Unsup{"unknown register " + t.s};
    else {
      o.k = 's';
      o.sym = t.s;
    }
    if (o.k == 's' && (is("+") || is("-")) && M.tk[p + 1].k == 'n') {
      bool ng = is("-");
      p++;
      i64 x = (i64)parseInt(M.tk[p++].s);
      o.off = ng ? -x : x;
    }
    if (is("|")) {
      p++;
      Opnd q;
      q.k = '|';
      q.v.push_back(o);
      q.v.push_back(operand());
      return q;
    }
    return o;
  }
  M.err(p, "unexpected operand");
}
