// The normal distribution by a table in vector registers, for levels whose results are bfloat16.
//
// Phi(x) - 1/2 is odd. For |x| up to 5.3 it is a cubic polynomial in each of 31 segments, around the
// multiples of their width; beyond, it is 1/2. A segment's number is in the low bits of a rounded
// multiple, and one permutation of two registers looks up a coefficient for 16 lanes: 14
// instructions, 4 of them permutations, where the polynomial of math.h takes 21. The absolute error
// is below 2.1e-7 and its mean 2e-10: in sums over tokens it cancels as a rounding does.
#pragma once

#include "cpu/simd/simd.h"

#if defined(__AVX512BF16__)

TRANSNEXT_BEGIN_LEVEL

// Coefficients of the powers 0 to 3 of |x| / width - segment (Chebyshev series, cut off).
constexpr int kNormalSegments = 32;
alignas(64) constexpr float kNormalTable[4][kNormalSegments] = {
    {0.0f,         0.0689770207f, 0.135907426f, 0.198924944f, 0.25649786f,  0.307535917f,
     0.351438373f, 0.388082355f,  0.417760372f, 0.441083491f, 0.458868593f, 0.472028255f,
     0.481476545f, 0.488058865f,  0.492508471f, 0.495427161f, 0.49728483f,  0.4984321f,
     0.499119639f, 0.499519408f,  0.499744982f, 0.499868453f, 0.499934077f, 0.499967903f,
     0.499984801f, 0.499993026f,  0.499996871f, 0.499998659f, 0.499999434f, 0.499999762f,
     0.499999911f, 0.5f},
    {0.0693244487f,   0.0682855621f,   0.0652616248f,   0.0605163649f,
     0.0544469804f,   0.0475292206f,   0.0402562767f,   0.0330820531f,
     0.0263777208f,   0.0204064753f,   0.0153173869f,   0.0111554544f,
     0.00788271427f,  0.00540443324f,  0.00359509536f,  0.00232036598f,
     0.00145307637f,  0.000882889144f, 0.000520486734f, 0.000297713792f,
     0.000165224323f, 8.8968176e-05f,  4.64816003e-05f, 2.35620519e-05f,
     1.15885941e-05f, 5.5301125e-06f,  2.56048793e-06f, 1.15026262e-06f,
     5.01368106e-07f, 2.12032234e-07f, 8.70026398e-08f, 0.0f},
    {-4.62275068e-07f, -0.00102905824f,  -0.00196708739f,  -0.0027363461f,
     -0.00328298099f,  -0.00358293904f,  -0.00364237092f,  -0.00349298632f,
     -0.00318388385f,  -0.00277191936f,  -0.00231265766f,  -0.00185344508f,
     -0.00142937573f,  -0.0010621578f,   -0.00076130149f,  -0.000526750926f,
     -0.000352064148f, -0.000227426412f, -0.000142055171f, -8.58288113e-05f,
     -5.01772411e-05f, -2.83919853e-05f, -1.5552534e-05f,  -8.24917879e-06f,
     -4.23741312e-06f, -2.10833014e-06f, -1.01620958e-06f, -4.74555833e-07f,
     -2.14732367e-07f, -9.4157663e-08f,  -4.00128393e-08f, 0.0f},
    {-0.000347778958f, -0.00033282669f,  -0.000288416748f, -0.000221584211f,
     -0.000141584431f, -5.87349205e-05f, 1.74152501e-05f,  7.95622545e-05f,
     0.000123493533f,  0.000148216641f,  0.000155469606f,  0.000148838502f,
     0.000132751054f,  0.000111580841f,  8.90110969e-05f,  6.77084972e-05f,
     4.92739564e-05f,  3.43884094e-05f,  2.30577025e-05f,  1.48744457e-05f,
     9.24210963e-06f,  5.53602968e-06f,  3.19921674e-06f,  1.78473556e-06f,
     9.61642627e-07f,  5.00672854e-07f,  2.51975848e-07f,  1.22622467e-07f,
     5.7717962e-08f,   2.62839226e-08f,  1.15825269e-08f,  0.0f}};

template <int kCount>
inline void normal_distribution_in_segments(const Vector<float> (&x)[kCount],
                                            Vector<float> (&normal)[kCount]) {
  constexpr float kInverseWidth = 30.5f / 5.3f;
  constexpr float kLargest = (kNormalSegments - 1) / kInverseWidth;
  constexpr float kRound = 12582912.0f;  // adding it leaves the integer in the low bits
  constexpr int kSign = static_cast<int>(0x80000000u);
  Vector<float> shifted[kCount], rest[kCount];
  for (int v = 0; v < kCount; ++v) {
    const auto size = reinterpret_cast<Vector<float>>(reinterpret_cast<Mask<float>>(x[v]) & ~kSign);
    const Vector<float> inside = minimum(broadcast(kLargest), size);  // NaN stays NaN
    shifted[v] = inside * kInverseWidth + kRound;
    rest[v] = inside * kInverseWidth - (shifted[v] - kRound);
  }
  const auto coefficient = [&](int power, int v) {
    const float* table = kNormalTable[power];
    return reinterpret_cast<Vector<float>>(
        _mm512_permutex2var_ps(load<__m512>(table), reinterpret_cast<__m512i>(shifted[v]),
                               load<__m512>(table + kNormalSegments / 2)));
  };
  for (int v = 0; v < kCount; ++v) normal[v] = coefficient(3, v);
#pragma GCC unroll 3
  for (int power = 2; power >= 0; --power) {
    for (int v = 0; v < kCount; ++v) normal[v] = normal[v] * rest[v] + coefficient(power, v);
  }
  for (int v = 0; v < kCount; ++v) {
    const Mask<float> sign = reinterpret_cast<Mask<float>>(x[v]) & kSign;
    normal[v] =
        0.5f + reinterpret_cast<Vector<float>>(reinterpret_cast<Mask<float>>(normal[v]) | sign);
  }
}

TRANSNEXT_END_LEVEL

#endif
