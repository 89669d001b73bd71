// Functions of one float, and reductions over a warp.
#pragma once

namespace transnext::device {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;
constexpr float kInverseSqrtTwoPi = 0.39894228f;
constexpr float kSmallestNormal = 1.17549435e-38f;
// -infinity, spelled in the one way that nvcc, NVRTC and a host compiler all have without a header:
// the logit of a key that is not there.
constexpr float kNoLogit = __builtin_bit_cast(float, 0xff800000u);

// Defines a function of one float that is one approximate instruction of a GPU, and `on_host` in the
// emulation.
#if defined(__CUDA_ARCH__)
#define TRANSNEXT_ONE_INSTRUCTION(name, instruction, on_host) \
  __device__ inline float name(float x) {                     \
    float result;                                             \
    asm(instruction " %0, %1;" : "=f"(result) : "f"(x));      \
    return result;                                            \
  }
#else
#define TRANSNEXT_ONE_INSTRUCTION(name, instruction, on_host) \
  __device__ inline float name(float x) {                     \
    return on_host;                                           \
  }
#endif

// 2^x to about two units in the last place, 0 where that is no normal number.
TRANSNEXT_ONE_INSTRUCTION(exp2_fast, "ex2.approx.ftz.f32",
                          exp2f(x) < kSmallestNormal ? 0.0f : exp2f(x))
// The logarithm to base 2, with an absolute or relative error of at most 2^-22.
TRANSNEXT_ONE_INSTRUCTION(log2_fast, "lg2.approx.ftz.f32", log2f(x))
// 1 / x to one unit in the last place, 0 for an infinite x.
TRANSNEXT_ONE_INSTRUCTION(reciprocal_fast, "rcp.approx.ftz.f32", 1.0f / x)
// 1 / sqrt(x) to two units in the last place, infinite for zero.
TRANSNEXT_ONE_INSTRUCTION(inverse_root_fast, "rsqrt.approx.ftz.f32", 1.0f / sqrtf(x))
#undef TRANSNEXT_ONE_INSTRUCTION

// e^x with a relative error of about |x| 2^-24: softmax terms, densities.
__device__ inline float exp_fast(float x) {
  return exp2_fast(x * kLog2E);
}

// The normal distribution at x. In its tail,
//
//   Phi(-|x|) = t P(t) exp(-x^2 / 2),   t = 1 / (1 + 0.3 |x|),
//
// P is the polynomial of degree 7 of least relative error, 1.5e-7 up to |x| = 14 (fitted to erfc in
// 40 digits). With rounding the error is 5e-7 up to |x| = 1 and x^2 2^-24 beyond; that of GELU is
// at most 1e-7.
struct Normal {
  float distribution;  // Phi(x): GELU(x) = x Phi(x)
  float density;

  __device__ explicit Normal(float x) {
    const float t = reciprocal_fast(0.3f * fabsf(x) + 1.0f);
    const float power = exp2_fast(x * (x * (-0.5f * kLog2E)));
    float tail = 0.035674773f;
    tail = tail * t - 0.15720308f;
    tail = tail * t + 0.2063535f;
    tail = tail * t - 0.053683642f;
    tail = tail * t + 0.12856163f;
    tail = tail * t + 0.09991349f;
    tail = tail * t + 0.12075396f;
    tail = tail * t + 0.1196293f;
    tail *= t * power;
    distribution = x < 0.0f ? tail : 1.0f - tail;
    density = kInverseSqrtTwoPi * power;
  }

  // GELU'(x), NaN for an infinite x (infinity * 0), as in PyTorch: the term 0 x makes it so. The
  // condition changes no value; written as distribution + x * density, conv_glu's backward for
  // BFloat16 needs one register too many on 8.0 and 9.0.
  __device__ float gelu_slope(float x) const {
    return (density > 0.0f ? distribution + x * density : distribution) + 0.0f * x;
  }
};

// NaN for -infinity (-infinity * 0), as in PyTorch.
__device__ inline float gelu(float x) {
  return x * Normal(x).distribution;
}

__device__ inline float gelu_slope(float x) {
  return Normal(x).gelu_slope(x);
}

constexpr float kNormEpsilon = 1e-12f;

// The factor that normalises a vector of this squared norm; zero stays zero. Not fminf, which loses
// a NaN.
__device__ inline float inverse_norm(float square) {
  const float inverse = inverse_root_fast(square);
  return inverse > 1.0f / kNormEpsilon ? 1.0f / kNormEpsilon : inverse;
}

// The same for a vector of this length.
__device__ inline float inverse_length(float length) {
  return 1.0f / (length < kNormEpsilon ? kNormEpsilon : length);
}

// The sum or the maximum of a value over all lanes of a warp, in every lane.
__device__ inline float warp_sum(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The sum over the four neighbouring lanes of a row, in each of them.
__device__ inline float sum_of_four(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

__device__ inline float warp_max(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

}  // namespace transnext::device
