// Division of small numbers by one that does not change: a multiplication.
#pragma once

namespace transnext::device {

// Exact while the dividend is below 2^21, since the rounded product then stays nearer to
// (dividend + 1/2) / divisor than an integer is.
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
