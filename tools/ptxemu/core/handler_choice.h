// The handler of an operation for a type.
#pragma once

#include "operands.h"

#define ISEL(t, FN)                                  \
  ((t) == T_U16 || (t) == T_B16   ? (Handler)FN<u16> \
   : (t) == T_S16                 ? (Handler)FN<i16> \
   : (t) == T_U32 || (t) == T_B32 ? (Handler)FN<u32> \
   : (t) == T_S32                 ? (Handler)FN<i32> \
   : (t) == T_U64 || (t) == T_B64 ? (Handler)FN<u64> \
   : (t) == T_S64                 ? (Handler)FN<i64> \
                                  : (Handler) nullptr)
#define ISEL2(t, FN, F)                                 \
  ((t) == T_U16 || (t) == T_B16   ? (Handler)FN<u16, F> \
   : (t) == T_S16                 ? (Handler)FN<i16, F> \
   : (t) == T_U32 || (t) == T_B32 ? (Handler)FN<u32, F> \
   : (t) == T_S32                 ? (Handler)FN<i32, F> \
   : (t) == T_U64 || (t) == T_B64 ? (Handler)FN<u64, F> \
   : (t) == T_S64                 ? (Handler)FN<i64, F> \
                                  : (Handler) nullptr)

template <class T, bool Z>
static Handler setpSel(int c) {
  switch (c) {
    case CEQ:
      return h_setp<T, CEQ, Z>;
    case CNE:
      return h_setp<T, CNE, Z>;
    case CLT:
      return h_setp<T, CLT, Z>;
    case CLE:
      return h_setp<T, CLE, Z>;
    case CGT:
      return h_setp<T, CGT, Z>;
    case CGE:
      return h_setp<T, CGE, Z>;
    default:
      break;
  }
  if constexpr (std::is_floating_point<T>::value) switch (c) {
      case CEQU:
        return h_setp<T, CEQU, Z>;
      case CNEU:
        return h_setp<T, CNEU, Z>;
      case CLTU:
        return h_setp<T, CLTU, Z>;
      case CLEU:
        return h_setp<T, CLEU, Z>;
      case CGTU:
        return h_setp<T, CGTU, Z>;
      case CGEU:
        return h_setp<T, CGEU, Z>;
      case CNUM:
        return h_setp<T, CNUM, Z>;
      case CNAN:
        return h_setp<T, CNAN, Z>;
    }
  return nullptr;
}
template <int OP>
static Handler halfSel(Ty t) {
  return t == T_F16     ? (Handler)h_half<OP, false, 1>
         : t == T_F16X2 ? (Handler)h_half<OP, false, 2>
         : t == T_BF16  ? (Handler)h_half<OP, true, 1>
                        : (Handler)h_half<OP, true, 2>;
}
static bool isHalf(Ty t) {
  return t == T_F16 || t == T_F16X2 || t == T_BF16 || t == T_BF16X2;
}
