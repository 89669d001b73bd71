// Conversions between the 16-bit storage formats and float, rounding to nearest, ties to even, with
// NaN staying NaN. This integer arithmetic works everywhere; targets with instructions for it use
// those (cpu/simd/convert.h, cuda/kernels/common/storage.cuh).
#pragma once

#include "transnext/tensor.h"

namespace transnext {

TRANSNEXT_INLINE float bits_to_float(unsigned bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

TRANSNEXT_INLINE unsigned float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  unsigned bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

// A bfloat16 is the upper half of a float.
TRANSNEXT_INLINE float bfloat16_to_float(BFloat16 x) {
  return bits_to_float(static_cast<unsigned>(x.bits) << 16);
}

TRANSNEXT_INLINE BFloat16 float_to_bfloat16(float x) {
  const unsigned bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return {0x7fc0};  // rounding could turn a NaN into infinity
  return {static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// A half's exponent and mantissa, moved to those of a float, give its value times 2^-112: exact,
// including subnormals.
TRANSNEXT_INLINE float half_to_float(Half x) {
  const unsigned magnitude = static_cast<unsigned>(x.bits & 0x7fff) << 13;
  const unsigned sign = static_cast<unsigned>(x.bits & 0x8000) << 16;
  const bool special = (x.bits & 0x7c00) == 0x7c00;  // infinity and NaN keep the largest exponent
  const float value =
      special ? bits_to_float(magnitude | 0x7f800000u) : bits_to_float(magnitude) * 0x1p112f;
  return bits_to_float(float_to_bits(value) | sign);
}

TRANSNEXT_INLINE Half float_to_half(float x) {
  const unsigned bits = float_to_bits(x);
  const unsigned magnitude = bits & 0x7fffffffu;
  unsigned result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00;
  } else if (magnitude >= 0x477ff000u) {  // 65520, halfway beyond the largest half
    result = 0x7c00;
  } else if (magnitude <
             0x38800000u) {  // below 2^-14: adding 0.5 rounds to the subnormals' spacing, 2^-24
    result = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    result = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<unsigned short>(((bits >> 16) & 0x8000u) | result)};
}

// The nearest TF32 to a float, ties away from zero as in cvt.rna.tf32, with zeros in the 13 bits
// that tensor cores ignore.
TRANSNEXT_INLINE unsigned float_to_tensor_float(float x) {
  const unsigned bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return 0x7fffffffu;  // rounding could turn a NaN into zero
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace transnext
