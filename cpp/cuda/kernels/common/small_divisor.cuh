// Divisions that are faster than those of index_t: of small numbers by a constant divisor, as a
// multiplication, and of numbers that nearly always fit in 32 bits.
#pragma once

#include "transnext/tensor.h"

namespace transnext::device {

// dividend / divisor, neither negative.
__device__ inline index_t quotient(index_t dividend, index_t divisor) {
  if ((dividend | divisor) >> 32 == 0)
    return static_cast<unsigned>(dividend) / static_cast<unsigned>(divisor);
  return dividend / divisor;
}

// Exact for dividends below 2^21: the rounded product is then closer to (dividend + 1/2) / divisor
// than any integer is.
struct SmallDivisor {
  int divisor;
  float inverse;

  __device__ explicit SmallDivisor(int value)
      : divisor(value), inverse(1.0f / static_cast<float>(value)) {}
  __device__ int quotient(int dividend) const {
    return static_cast<int>((static_cast<float>(dividend) + 0.5f) * inverse);
  }
};

}  // namespace transnext::device
