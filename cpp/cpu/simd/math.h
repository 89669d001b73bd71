// exp and GELU on vectors of the compute type.
#pragma once

#include "cpu/simd/normal_segments.h"
#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

// exp(x) = 2^n p(r), n = round(x / ln 2). For double, r = x - n ln 2 with ln 2 split so that n *
// high is exact, and p the Taylor series of exp(r) up to where its next term is below a quarter of
// an ulp. For float, r = x / ln 2 - n and p the minimax polynomial of 2^r of degree 5 (9e-8
// relative): ln 2 is not split, since the arguments are differences of logits, whose own rounding
// error is as large.
//
// n is found by adding 1.5 * 2^(mantissa bits) + the exponent's bias: the sum's low bits are then
// the exponent field of 2^n.
template <class C>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kRound = 12582912.0f + 127.0f;
  static constexpr float kLowest = -87.0f;  // results below 2^-126 become 0
  static constexpr float kHighest = 88.0f;
  static constexpr int kMantissaBits = 23;
  static constexpr int kTerms = 6;
  static constexpr float kSeries[kTerms] = {1.0f,          0.693147004f,   0.240222409f,
                                            0.0555073433f, 0.00967155490f, 0.00132646726f};
  static Vector<float> rest(Vector<float> x, Vector<float> n) { return x * 1.44269504f - n; }
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0 + 1023.0;
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
  static Vector<double> rest(Vector<double> x, Vector<double> n) {
    return (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  }
};

// Relative error below 2e-7 + 8e-8 |x| (float), 3e-16 (double) for arguments from kLowest to
// kHighest; exactly 0 below (also for -infinity), undefined above; NaN for NaN. Computes kCount
// vectors at a time: each step is a chain of dependent multiply-adds, and a processor's window is
// too short to overlap the chains of consecutive vectors.
template <class C, int kCount>
inline void exp_bounded(Vector<C> (&x)[kCount]) {
  using K = ExpConstants<C>;
  Vector<C> shifted[kCount], r[kCount], series[kCount];
  for (int v = 0; v < kCount; ++v) shifted[v] = x[v] * C(1.4426950408889634074) + K::kRound;
  for (int v = 0; v < kCount; ++v) r[v] = K::rest(x[v], shifted[v] - K::kRound);
  for (int v = 0; v < kCount; ++v)
    series[v] = K::kSeries[K::kTerms - 1] * r[v] + K::kSeries[K::kTerms - 2];
#pragma GCC unroll 16
  for (int i = K::kTerms - 3; i >= 0; --i) {
    for (int v = 0; v < kCount; ++v) series[v] = series[v] * r[v] + K::kSeries[i];
  }
  for (int v = 0; v < kCount; ++v) {
    const Mask<C> power = reinterpret_cast<Mask<C>>(shifted[v]) << K::kMantissaBits;
    const Vector<C> result = series[v] * reinterpret_cast<Vector<C>>(power);
    x[v] = x[v] < K::kLowest ? Vector<C>{} : result;
  }
}

template <class C>
inline Vector<C> exp_bounded(Vector<C> x) {
  Vector<C> only[1] = {x};
  exp_bounded<C>(only);
  return only[0];
}

// GELU(x) = x Phi(x) and its derivative Phi(x) + x phi(x), Phi and phi the normal distribution and
// density, for kCount vectors at a time: each step is a chain of dependent multiply-adds, and a
// processor's window is too short to overlap the chains of consecutive vectors.

// x[v] = the sum of coefficient[i] x[v]^i.
template <class C, int kTerms, int kCount>
inline void polynomial(const C (&coefficient)[kTerms], Vector<C> (&x)[kCount]) {
  Vector<C> sum[kCount];
  for (int v = 0; v < kCount; ++v)
    sum[v] = coefficient[kTerms - 1] * x[v] + coefficient[kTerms - 2];
  for (int i = kTerms - 3; i >= 0; --i) {
    for (int v = 0; v < kCount; ++v) sum[v] = sum[v] * x[v] + coefficient[i];
  }
  for (int v = 0; v < kCount; ++v) x[v] = sum[v];
}

// x[v] = 2^x[v] with a relative error below 4e-6, for weights that are rounded to bfloat16 (2e-3): a
// polynomial of the fraction (minimax on 0 to 1), and the whole part as the exponent. Defined up to
// 126; below -125 results may be 0; 0 for -infinity, NaN for NaN.
template <int kCount>
inline void power_of_two(Vector<float> (&x)[kCount]) {
  constexpr float kFit[5] = {1.000002623f, 0.6930038333f, 0.2414427549f, 0.05201146007f,
                             0.01353416778f};
#if defined(__AVX512DQ__)
  constexpr int kFloor = 1;  // and 0 is the fraction of an infinity
  constexpr __mmask16 kAll = 0xffff;
  Vector<float> power[kCount];
  for (int v = 0; v < kCount; ++v) power[v] = _mm512_maskz_reduce_ps(kAll, x[v], kFloor);
  polynomial<float>(kFit, power);
  for (int v = 0; v < kCount; ++v) x[v] = _mm512_maskz_scalef_ps(kAll, power[v], x[v]);
#else
  using K = ExpConstants<float>;
  constexpr float kLowest = -125.0f;
  Vector<float> whole[kCount], power[kCount];
  for (int v = 0; v < kCount; ++v) {
    whole[v] = x[v] - 0.5f + K::kRound;
    power[v] = x[v] - (whole[v] - K::kRound);
  }
  polynomial<float>(kFit, power);
  for (int v = 0; v < kCount; ++v) {
    const Mask<float> exponent = reinterpret_cast<Mask<float>>(whole[v]) << K::kMantissaBits;
    const Vector<float> result = power[v] * reinterpret_cast<Vector<float>>(exponent);
    x[v] = x[v] < kLowest ? Vector<float>{} : result;
  }
#endif
}

// Phi(x). Phi - 1/2 is an odd function, x times a polynomial in x^2: no exponential, no division.
// The polynomial is in x^2 - kCentre, the middle of the range it is fitted on (minimax, 2e-8):
// there its terms are small and nothing cancels. Beyond the range the result is exactly 0 or 1.
template <int kCount>
inline void normal_distribution(const Vector<float> (&x)[kCount], Vector<float> (&normal)[kCount]) {
#if defined(__AVX512BF16__)
  return normal_distribution_in_segments(x, normal);
#endif
  constexpr float kHalf[15] = {0.133392558f,    -0.004736098f,    0.00024973962f,  -1.42893578e-05f,
                               8.24419772e-07f, -4.62825831e-08f, 2.46498266e-09f, -1.22452382e-10f,
                               5.84282839e-12f, -2.73557381e-13f, 1.0374313e-14f,  -2.68486204e-16f,
                               1.29935946e-17f, -9.10654303e-19f, 2.33819047e-20f};
  constexpr float kLargest = 5.3f;
  constexpr float kCentre = kLargest * kLargest / 2;
  for (int v = 0; v < kCount; ++v)
    normal[v] = minimum(broadcast(kLargest * kLargest), x[v] * x[v]) - kCentre;
  polynomial<float>(kHalf, normal);
  for (int v = 0; v < kCount; ++v)
    normal[v] = 0.5f + maximum(broadcast(-0.5f), minimum(broadcast(0.5f), x[v] * normal[v]));
}

// phi(x) = 2^(-x^2 / (2 ln 2)) / sqrt(2 pi). 2^n comes from the integer n in the low bits of the
// rounded exponent, 2^f / sqrt(2 pi) for |f| <= 1/2 from a polynomial (minimax, 8e-8 relative).
// Beyond |x| = 12.6, where it is 1e-35, it is exactly 0.
template <int kCount>
inline void normal_density(const Vector<float> (&x)[kCount], Vector<float> (&density)[kCount]) {
  constexpr float kPower[6] = {0.398942322f,  0.276525646f,   0.0958343893f,
                               0.0221441425f, 0.00385998259f, 0.000529654499f};
  constexpr float kLargestSquare = 160.0f;
  constexpr float kScale = -0.72134752f;  // -1 / (2 ln 2)
  constexpr float kRound = 12582912.0f;   // adding it leaves the integer in the low bits, as in exp
  Vector<float> exponent[kCount];
  for (int v = 0; v < kCount; ++v) {
    const Vector<float> square = minimum(x[v] * x[v], broadcast(kLargestSquare));
    exponent[v] = square * kScale + kRound;
    density[v] = square * kScale - (exponent[v] - kRound);
  }
  polynomial<float>(kPower, density);
  for (int v = 0; v < kCount; ++v) {
    const Mask<float> bits =
        reinterpret_cast<Mask<float>>(density[v]) +
        (reinterpret_cast<Mask<float>>(exponent[v]) << ExpConstants<float>::kMantissaBits);
    density[v] =
        x[v] * x[v] < kLargestSquare ? reinterpret_cast<Vector<float>>(bits) : Vector<float>{};
  }
}

// phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
template <int kCount>
inline void normal_density(const Vector<double> (&x)[kCount], Vector<double> (&density)[kCount]) {
  for (int v = 0; v < kCount; ++v)
    density[v] = 0.39894228040143267794 * exp_bounded<double>(-0.5 * (x[v] * x[v]));
}

// With a = |x|, Phi(-a) = exp(-a^2/2) M(a), where (1 + a) M(a) is a polynomial in
// v = (a - 4) / (a + 4), which lies between -1 and 1 (interpolated at Chebyshev nodes, 5e-17).
template <int kCount>
inline void normal_distribution(const Vector<double> (&x)[kCount],
                                Vector<double> (&normal)[kCount]) {
  constexpr double kFit[26] = {
      0.47205320650984467,     -0.09670347732652576,    0.013999634724424297,
      0.02860036405354529,     -0.032197837428020314,   0.0179360974798602,
      -0.0050023785925431535,  -0.000285623100972965,   0.0006948971222098154,
      -9.443022614940559e-05,  -8.785330565514983e-05,  2.1249886647480865e-05,
      1.3627401398305628e-05,  -3.4315625205131418e-06, -2.614424590096395e-06,
      4.027880824736246e-07,   5.548567498180354e-07,   4.540567958834085e-09,
      -1.1449213053107154e-07, -2.360799665655461e-08,  2.0273262246505857e-08,
      9.042124481367652e-09,   -2.623951429487801e-09,  -1.973476695828824e-09,
      1.7971784387888186e-10,  2.0753044993672848e-10};
  constexpr double kLargest = 40.0;
  Vector<double> a[kCount];
  for (int v = 0; v < kCount; ++v) {
    a[v] = x[v] < 0.0 ? -x[v] : x[v];
    a[v] = minimum(broadcast(kLargest), a[v]);
    normal[v] = (a[v] - 4.0) / (a[v] + 4.0);
  }
  polynomial<double>(kFit, normal);
  for (int v = 0; v < kCount; ++v) {
    const Vector<double> tail =
        exp_bounded<double>(-0.5 * (a[v] * a[v])) * normal[v] / (1.0 + a[v]);
    normal[v] = x[v] < 0.0 ? tail : 1.0 - tail;
  }
}

// x[v] = GELU(x[v]). Absolute error below 2.5e-7 max(1, |x|) (float), 1e-15 max(1, |x|) (double),
// as cpp/tests/math_accuracy.cpp measures it. Infinity stays infinity; -infinity becomes NaN
// (-infinity * 0), as in the formula and in PyTorch; NaN stays NaN.
template <class C, int kCount>
inline void gelu(Vector<C> (&x)[kCount]) {
  Vector<C> normal[kCount];
  normal_distribution(x, normal);
  for (int v = 0; v < kCount; ++v) x[v] = x[v] * normal[v];
}

// The value and the derivative, whose absolute error is below 3e-7 (float), 1e-15 (double); the
// derivative at an infinity is NaN (infinity * 0), as in PyTorch.
template <class C, int kCount>
inline void gelu(const Vector<C> (&x)[kCount], Vector<C> (&value)[kCount],
                 Vector<C> (&slope)[kCount]) {
  Vector<C> normal[kCount];
  Vector<C> density[kCount];
  normal_distribution(x, normal);
  normal_density(x, density);
  for (int v = 0; v < kCount; ++v) {
    value[v] = x[v] * normal[v];
    slope[v] = x[v] * density[v] + normal[v];
  }
}

TRANSNEXT_END_LEVEL
