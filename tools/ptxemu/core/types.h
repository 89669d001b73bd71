// Integers by size, the PTX types, and the error that ends a launch.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <unordered_map>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

struct EmuError : std::runtime_error {
  std::string kind;
  EmuError(const std::string& k, const std::string& m) : std::runtime_error(m), kind(k) {}
};

template <class D, class S>
static inline D bitcast(S s) {
  static_assert(sizeof(D) == sizeof(S), "size");
  D d;
  memcpy(&d, &s, sizeof d);
  return d;
}

enum Ty : u8 {
  T_NONE,
  T_PRED,
  T_B8,
  T_B16,
  T_B32,
  T_B64,
  T_B128,
  T_U8,
  T_U16,
  T_U32,
  T_U64,
  T_S8,
  T_S16,
  T_S32,
  T_S64,
  T_F16,
  T_F16X2,
  T_BF16,
  T_BF16X2,
  T_TF32,
  T_F32,
  T_F64,
  T_F32X2,
  T_S4,
  T_U4,
  T_B1,
  T_U16X2,
  T_S16X2
};

static inline Ty typeOf(const std::string& s) {
  static const std::unordered_map<std::string, Ty> M = {
      {"pred", T_PRED}, {"b8", T_B8},         {"b16", T_B16},    {"b32", T_B32},
      {"b64", T_B64},   {"b128", T_B128},     {"u8", T_U8},      {"u16", T_U16},
      {"u32", T_U32},   {"u64", T_U64},       {"s8", T_S8},      {"s16", T_S16},
      {"s32", T_S32},   {"s64", T_S64},       {"f16", T_F16},    {"f16x2", T_F16X2},
      {"bf16", T_BF16}, {"bf16x2", T_BF16X2}, {"tf32", T_TF32},  {"f32", T_F32},
      {"f64", T_F64},   {"f32x2", T_F32X2},   {"s4", T_S4},      {"u4", T_U4},
      {"b1", T_B1},     {"u16x2", T_U16X2},   {"s16x2", T_S16X2}};
  auto it = M.find(s);
  return it == M.end() ? T_NONE : it->second;
}
static inline int tySize(Ty t) {
  switch (t) {
    case T_PRED:
      return 4;
    case T_B8:
    case T_U8:
    case T_S8:
      return 1;
    case T_B16:
    case T_U16:
    case T_S16:
    case T_F16:
    case T_BF16:
      return 2;
    case T_B64:
    case T_U64:
    case T_S64:
    case T_F64:
    case T_F32X2:
      return 8;
    case T_B128:
      return 16;
    case T_NONE:
      return 0;
    default:
      return 4;
  }
}
static inline bool isSigned(Ty t) {
  return t == T_S8 || t == T_S16 || t == T_S32 || t == T_S64;
}
static inline bool isFloatTy(Ty t) {
  return t >= T_F16 && t <= T_F32X2;
}
static inline bool isIntTy(Ty t) {
  return t >= T_B8 && t <= T_S64;
}
