// The handler of an operation for a type.
#pragma once

#include <type_traits>
#include <utility>

#include "operands.h"

// Returns choose(x) with x of the integer type that t stands for; null where t is none.
template <class Choose>
static Handler integerHandler(Ty t, Choose choose) {
  switch (t) {
    case T_U16:
    case T_B16:
      return choose(u16());
    case T_S16:
      return choose(i16());
    case T_U32:
    case T_B32:
      return choose(u32());
    case T_S32:
      return choose(i32());
    case T_U64:
    case T_B64:
      return choose(u64());
    case T_S64:
      return choose(i64());
    default:
      return nullptr;
  }
}
#define ISEL(t, FN) integerHandler(t, [](auto x) { return (Handler)FN<decltype(x)>; })
#define ISEL2(t, FN, F) integerHandler(t, [](auto x) { return (Handler)FN<decltype(x), F>; })
// Of an operation whose result is twice as wide.
#define NARROW_HANDLER(t, FN)        \
  ((t) == T_U16   ? (Handler)FN<u16> \
   : (t) == T_S16 ? (Handler)FN<i16> \
   : (t) == T_U32 ? (Handler)FN<u32> \
   : (t) == T_S32 ? (Handler)FN<i32> \
                  : nullptr)
// Of an operation on bits, signed or not, of 32 or 64 of them.
#define WORD_HANDLER(t, FN) (tySize(t) == 8 ? (Handler)FN<u64> : (Handler)FN<u32>)
// Of an operation in float32 as the instruction flushes denormal numbers or not.
#define F32_HANDLER(OP) (fz ? h_f2<OP, true> : h_f2<OP, false>)

template <class T, bool Z, int... C>
static Handler setpOf(int c, std::integer_sequence<int, C...>) {
  static const Handler handlers[] = {h_setp<T, C, Z>...};
  return c < (int)sizeof...(C) ? handlers[c] : nullptr;
}
// Integers have the six comparisons alone in which no operand can be unordered.
template <class T, bool Z>
static Handler setpSel(int c) {
  constexpr int kCount = std::is_floating_point<T>::value ? CNAN + 1 : CGE + 1;
  return setpOf<T, Z>(c, std::make_integer_sequence<int, kCount>());
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
