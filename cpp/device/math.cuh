// Functions of one float, and reductions over a warp, in device code.
#pragma once

namespace transnext::device {

constexpr float kLog2E = 1.44269504f;
constexpr float kInverseSqrtTwo = 0.70710678f;
constexpr float kInverseSqrtTwoPi = 0.39894228f;

// 2^x to about two units in the last place: one instruction.
__device__ inline float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

// e^x with a relative error of about |x| 2^-24: softmax terms, densities.
__device__ inline float exp_fast(float x) {
  return exp2_fast(x * kLog2E);
}

// The normal distribution function, by which GELU(x) = x Phi(x).
__device__ inline float normal_distribution(float x) {
  return 0.5f * (1.0f + erff(x * kInverseSqrtTwo));
}

__device__ inline float normal_density(float x) {
  return kInverseSqrtTwoPi * exp_fast(-0.5f * x * x);
}

__device__ inline float gelu(float x) {
  return x * normal_distribution(x);
}

// GELU'(x), of which an infinite x leaves 0 or 1: the density is 0 there, and x times it must be.
__device__ inline float gelu_slope(float x, float distribution) {
  const float density = normal_density(x);
  return density > 0.0f ? distribution + x * density : distribution;
}

__device__ inline float gelu_slope(float x) {
  return gelu_slope(x, normal_distribution(x));
}

constexpr float kNormEpsilon = 1e-12f;

// What normalises a vector of this square, zero staying zero.
__device__ inline float inverse_norm(float square) {
  return 1.0f / fmaxf(sqrtf(square), kNormEpsilon);
}

// The sum, the largest, of a value over all lanes of a warp, in every lane.
__device__ inline float warp_sum(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

}  // namespace transnext::device
