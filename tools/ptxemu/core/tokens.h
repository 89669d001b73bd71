// The tokens and number literals of PTX text.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "types.h"

struct Tok {
  char k;
  std::string s;
  int line;
};  // k: i ident, d directive, n number, s string, p punct, e end

static inline bool idc(char c) {
  return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%';
}

static std::vector<Tok> lexPtx(const std::string& t, int& line) {
  std::vector<Tok> out;
  size_t i = 0, n = t.size();
  while (i < n) {
    char c = t[i];
    if (c == '\n') {
      line++;
      i++;
      continue;
    }
    if (isspace((unsigned char)c)) {
      i++;
      continue;
    }
    if (c == '/' && i + 1 < n && t[i + 1] == '/') {
      while (i < n && t[i] != '\n') i++;
      continue;
    }
    if (c == '/' && i + 1 < n && t[i + 1] == '*') {
      i += 2;
      while (i + 1 < n && !(t[i] == '*' && t[i + 1] == '/')) {
        if (t[i] == '\n') line++;
        i++;
      }
      i += 2;
      continue;
    }
    if (c == '"') {
      size_t j = i + 1;
      while (j < n && t[j] != '"') {
        if (t[j] == '\n') line++;
        j++;
      }
      out.push_back({'s', t.substr(i + 1, j - i - 1), line});
      i = j + 1;
      continue;
    }
    if (c == '.' && i + 1 < n && (isalpha((unsigned char)t[i + 1]) || t[i + 1] == '_')) {
      size_t j = i + 1;
      while (j < n && (idc(t[j]))) j++;
      while (j + 2 < n && t[j] == ':' && t[j + 1] == ':' && idc(t[j + 2])) {
        j += 2;
        while (j < n && idc(t[j])) j++;
      }
      out.push_back({'d', t.substr(i, j - i), line});
      i = j;
      continue;
    }
    if (isdigit((unsigned char)c)) {
      size_t j = i;
      bool hex = c == '0' && i + 1 < n &&
                 (t[i + 1] == 'x' || t[i + 1] == 'X' || t[i + 1] == 'f' || t[i + 1] == 'd' ||
                  t[i + 1] == 'F' || t[i + 1] == 'D');
      while (j < n &&
             (isalnum((unsigned char)t[j]) || (!hex && t[j] == '.') ||
              (!hex && (t[j] == '-' || t[j] == '+') && (t[j - 1] == 'e' || t[j - 1] == 'E'))))
        j++;
      out.push_back({'n', t.substr(i, j - i), line});
      i = j;
      continue;
    }
    if (idc(c)) {
      size_t j = i;
      for (;;) {
        while (j < n && idc(t[j])) j++;
        if (j + 1 < n && t[j] == '.' && (isalnum((unsigned char)t[j + 1]) || t[j + 1] == '_')) {
          j++;
          continue;
        }
        if (j + 2 < n && t[j] == ':' && t[j + 1] == ':' && idc(t[j + 2])) {
          j += 2;
          continue;
        }
        break;
      }
      out.push_back({'i', t.substr(i, j - i), line});
      i = j;
      continue;
    }
    out.push_back({'p', std::string(1, c), line});
    i++;
  }
  out.push_back({'e', "", line});
  return out;
}

static u64 parseInt(const std::string& s0) {
  std::string s = s0;
  while (!s.empty() && (s.back() == 'U' || s.back() == 'u')) s.pop_back();
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'b' || s[1] == 'B'))
    return strtoull(s.c_str() + 2, nullptr, 2);
  return strtoull(s.c_str(), nullptr, 0);
}
struct Num {
  bool isF = false;
  int fbits = 0;
  u64 v = 0;
  double d = 0;
};
static Num parseNum(const std::string& s) {
  Num r;
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'F')) {
    r.isF = true;
    r.fbits = 32;
    r.v = strtoull(s.c_str() + 2, nullptr, 16);
    r.d = bitcast<float>((u32)r.v);
    return r;
  }
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'd' || s[1] == 'D')) {
    r.isF = true;
    r.fbits = 64;
    r.v = strtoull(s.c_str() + 2, nullptr, 16);
    r.d = bitcast<double>(r.v);
    return r;
  }
  bool hex = s.size() > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
  if (!hex && s.find_first_of(".eE") != std::string::npos) {
    r.isF = true;
    r.fbits = 64;
    r.d = strtod(s.c_str(), nullptr);
    r.v = bitcast<u64>(r.d);
    return r;
  }
  r.v = parseInt(s);
  r.d = (double)(i64)r.v;
  return r;
}
