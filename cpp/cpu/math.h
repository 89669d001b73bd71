// exp and GELU on vectors of the compute type.
#pragma once

#include "cpu/simd.h"

TRANSNEXT_BEGIN_LEVEL

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2, exp(r) by a polynomial: for float the
// minimax one of degree 6 (3.1e-9 relative), for double the Taylor series up to where its next term
// is below a quarter of an ulp.
//
// n is found by adding 1.5 * 2^(mantissa bits) + the exponent's bias: the sum's low bits are then
// the exponent field of 2^n. ln 2 is split so that n * high is exact.
template <class C>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kRound = 12582912.0f + 127.0f;
  static constexpr float kLog2High = 0.693145751953125f;
  static constexpr float kLog2Low = 1.4286068203094172321e-6f;
  static constexpr float kLowest = -87.0f;  // results below 2^-126 become 0
  static constexpr float kHighest = 88.0f;  // larger arguments count as this one
  static constexpr int kMantissaBits = 23;
  static constexpr int kTerms = 7;
  static constexpr float kSeries[kTerms] = {1.0f,
                                            1.0f,
                                            0.4999999403953552f,
                                            0.1666652113199234f,
                                            0.04166838899254799f,
                                            0.008368716575205326f,
                                            0.001381459878757596f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0 + 1023.0;
  static constexpr double kLog2High = 0.693147180369123816490;
  static constexpr double kLog2Low = 1.90821492927058770002e-10;
  static constexpr double kLowest = -708.0;
  static constexpr double kHighest = 709.0;
  static constexpr int kMantissaBits = 52;
  static constexpr int kTerms = 14;
  static constexpr double kSeries[kTerms] = {1.0,
                                             1.0,
                                             1.0 / 2,
                                             1.0 / 6,
                                             1.0 / 24,
                                             1.0 / 120,
                                             1.0 / 720,
                                             1.0 / 5040,
                                             1.0 / 40320,
                                             1.0 / 362880,
                                             1.0 / 3628800,
                                             1.0 / 39916800,
                                             1.0 / 479001600,
                                             1.0 / 6227020800.0};
};

// For arguments up to kHighest; anything for larger ones. Otherwise as exp.
template <class C>
inline Vector<C> exp_bounded(Vector<C> x) {
  using K = ExpConstants<C>;
  const Vector<C> shifted = x * C(1.4426950408889634074) + K::kRound;
  const Vector<C> n = shifted - K::kRound;
  const Vector<C> r = (x - n * K::kLog2High) - n * K::kLog2Low;
  Vector<C> series = broadcast<C>(K::kSeries[K::kTerms - 1]);
#pragma GCC unroll 16
  for (int i = K::kTerms - 2; i >= 0; --i) series = series * r + K::kSeries[i];
  const Mask<C> power = reinterpret_cast<Mask<C>>(shifted) << K::kMantissaBits;
  const Vector<C> result = series * reinterpret_cast<Vector<C>>(power);
  return x < K::kLowest ? Vector<C>{} : result;
}

// Relative error below 1.5e-7 (float), 3e-16 (double) for arguments from kLowest to kHighest;
// exactly 0 below (also for -infinity); NaN for NaN.
template <class C>
inline Vector<C> exp(Vector<C> x) {
  return exp_bounded<C>(x > ExpConstants<C>::kHighest ? broadcast<C>(ExpConstants<C>::kHighest)
                                                      : x);
}

// GELU(x) = x Phi(x) and its derivative Phi(x) + x phi(x), Phi and phi the normal distribution and
// density.
template <class C>
struct Gelu {
  Vector<C> value;
  Vector<C> slope;
};

// With a = |x|, Phi(-a) = exp(-a^2/2) M(a), M(a) = t (c_0 + c_1 t + ... + c_9 t^9), t = 1 / (1 +
// 0.3 a): one exponential serves Phi and phi, and Phi(-a) keeps its relative accuracy in the tail.
// The coefficients are a weighted least-squares fit of M on 0 <= a <= 14 (minimax to 3.5e-9
// relative). Error of value and slope: below 2e-7 * max(1, |x|) absolute.
inline Gelu<float> gelu(Vector<float> x) {
  constexpr float kFit[10] = {0.11968663f,  0.11957284f, 0.110227324f, 0.07842558f,  0.09605784f,
                              -0.07924736f, 0.19158173f, -0.22806755f, 0.112375796f, -0.020612832f};
  constexpr float kInverseSqrtTwoPi = 0.39894228f;
  const Vector<float> a = x < 0.0f ? -x : x;
  const Vector<float> t = 1.0f / (1.0f + 0.3f * a);
  const Vector<float> density = exp<float>(-0.5f * (a * a));
  Vector<float> fit = broadcast<float>(kFit[9]);
  for (int i = 8; i >= 0; --i) fit = fit * t + kFit[i];
  const Vector<float> tail = fit * t * density;
  const Vector<float> normal = x < 0.0f ? tail : 1.0f - tail;
  // Where the density is 0 the product would be infinity * 0 for an infinite x.
  const Vector<float> finite = density > 0.0f ? x : Vector<float>{};
  return {normal > 0.0f ? x * normal : finite * normal,
          normal + finite * density * kInverseSqrtTwoPi};
}

inline Gelu<double> gelu(Vector<double> x) {
  Gelu<double> result;
  for (int lane = 0; lane < kLanes<double>; ++lane) {
    const double normal = 0.5 * __builtin_erfc(-0.70710678118654752440 * x[lane]);
    const double density = 0.39894228040143267794 * __builtin_exp(-0.5 * x[lane] * x[lane]);
    result.value[lane] = normal != 0 ? x[lane] * normal : 0.0 * normal;
    result.slope[lane] = normal + (density != 0 ? x[lane] * density : 0.0);
  }
  return result;
}

TRANSNEXT_END_LEVEL
