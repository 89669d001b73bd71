// Measures exp_bounded, power_of_two and gelu of cpu/simd/math.h, compiled for one instruction set, against libm
// in a wider type, and fails if an error exceeds the bound stated there.
//
//   math_accuracy [step]     every step-th float32 (default 61; 1: all of them) and 2 million doubles
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "cpu/simd/math.h"

namespace level = transnext::cpu::TRANSNEXT_CPU_LEVEL;

namespace {

bool failed = false;

template <class C>
struct Worst {
  const char* name;
  double bound;
  double error = 0;
  C at = 0;

  void add(C x, double relative_to_bound) {
    if (relative_to_bound > error || std::isnan(relative_to_bound)) {
      error = std::isnan(relative_to_bound) ? std::numeric_limits<double>::infinity()
                                            : relative_to_bound;
      at = x;
    }
  }
  void report() const {
    std::printf("%-22s error %.3g at %.9g, stated bound %.3g%s\n", name, error * bound,
                static_cast<double>(at), bound, error <= 1 ? "" : "  EXCEEDED");
    if (!(error <= 1)) failed = true;
  }
};

template <class C>
struct Wide;
template <>
struct Wide<float> {
  using Type = double;
};
template <>
struct Wide<double> {
  using Type = long double;
};

constexpr int kVectors = 4;

template <class C>
class Measurement {
 public:
  Measurement(const char* type, double exp_bound, double exp_slope, double value_bound,
              double slope_bound)
      : type_(type),
        exp_slope_(exp_slope),
        exp_{"exp", exp_bound},
        value_{"gelu value", value_bound},
        slope_{"gelu slope", slope_bound} {}

  void add(C x) {
    input_[count_++] = x;
    if (count_ == kCount) flush();
  }
  void finish() {
    while (count_ > 0) add(C(0.5));
    std::printf("%s\n", type_);
    exp_.report();
    value_.report();
    slope_.report();
  }

 private:
  using W = typename Wide<C>::Type;
  using Vector = level::Vector<C>;
  static constexpr int kCount = kVectors * level::kLanes<C>;

  void flush() {
    Vector x[kVectors];
    Vector alone[kVectors];
    Vector value[kVectors];
    Vector slope[kVectors];
    std::memcpy(x, input_, sizeof(x));
    std::memcpy(alone, input_, sizeof(x));
    level::gelu<C>(alone);
    level::gelu<C>(x, value, slope);
    for (int i = 0; i < kCount; ++i) {
      const C input = input_[i];
      const int v = i / level::kLanes<C>;
      const int lane = i % level::kLanes<C>;
      const W wide = input;
      const W normal = W(0.5) * std::erfc(-wide * W(0.70710678118654752440084436210485L));
      const W density = W(0.39894228040143267793994605993438L) * std::exp(W(-0.5) * wide * wide);
      const double scale = std::fmax(1.0, std::fabs(static_cast<double>(input)));
      const W error = std::fabs(value[v][lane] - wide * normal);
      value_.add(input, static_cast<double>(error) / scale / value_.bound);
      if (std::memcmp(&alone[v], &value[v], sizeof(Vector)) != 0) value_.add(input, NAN);
      slope_.add(input, static_cast<double>(std::fabs(slope[v][lane] - (normal + wide * density))) /
                            slope_.bound);
    }
    for (auto& part : x) {
      const Vector y = level::exp_bounded<C>(part);
      for (int lane = 0; lane < level::kLanes<C>; ++lane) {
        const C input = part[lane];
        if (input < level::ExpConstants<C>::kLowest) {
          exp_.add(input, y[lane] == 0 ? 0 : NAN);
        } else if (input <= level::ExpConstants<C>::kHighest) {
          const W truth = std::exp(W(input));
          // The bound grows with the argument, which is a difference of logits that are rounded.
          const double bound = exp_.bound + exp_slope_ * std::fabs(static_cast<double>(input));
          exp_.add(input, static_cast<double>(std::fabs((y[lane] - truth) / truth)) / bound);
        }
      }
    }
    count_ = 0;
  }

  const char* type_;
  double exp_slope_;
  Worst<C> exp_;
  Worst<C> value_;
  Worst<C> slope_;
  C input_[kCount] = {};
  int count_ = 0;
};

template <class C>
C gelu_of(C x) {
  level::Vector<C> vector[1] = {level::broadcast<C>(x)};
  level::gelu<C>(vector);
  return vector[0][0];
}

template <class C>
C slope_of(C x) {
  const level::Vector<C> vector[1] = {level::broadcast<C>(x)};
  level::Vector<C> value[1];
  level::Vector<C> slope[1];
  level::gelu<C>(vector, value, slope);
  return slope[0][0];
}

template <class C>
void special_values() {
  const C infinity = std::numeric_limits<C>::infinity();
  const C nan = std::numeric_limits<C>::quiet_NaN();
  const C huge = std::numeric_limits<C>::max();
  const bool right = gelu_of(infinity) == infinity && std::isnan(gelu_of(-infinity)) &&
                     std::isnan(gelu_of(nan)) && gelu_of(huge) == huge && gelu_of(-huge) == 0 &&
                     std::isnan(slope_of(infinity)) && std::isnan(slope_of(-infinity)) &&
                     std::isnan(slope_of(nan)) && slope_of(huge) == 1 && slope_of(-huge) == 0 &&
                     std::isnan(level::exp_bounded<C>(level::broadcast<C>(nan))[0]) &&
                     level::exp_bounded<C>(level::broadcast<C>(-infinity))[0] == 0;
  std::printf("infinities and NaN: %s\n", right ? "right" : "WRONG");
  if (!right) failed = true;
}

void powers_of_two(unsigned step) {
  constexpr int kLanes = level::kLanes<float>;
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto power_of = [](level::Vector<float> x) {
    level::Vector<float> only[1] = {x};
    level::power_of_two(only);
    return only[0];
  };
  Worst<float> power{"power of two", 4e-6};
  const float spacing = static_cast<float>(step) * 1e-5f;
  for (float first = -125.0f; first < 125.9f; first += spacing * kLanes) {
    level::Vector<float> x;
    for (int lane = 0; lane < kLanes; ++lane) x[lane] = first + spacing * static_cast<float>(lane);
    const level::Vector<float> y = power_of(x);
    for (int lane = 0; lane < kLanes; ++lane) {
      const double truth = std::exp2(static_cast<double>(x[lane]));
      if (x[lane] <= 126.0f) power.add(x[lane], std::fabs(y[lane] / truth - 1) / power.bound);
    }
  }
  power.report();
  const auto one = [&](float x) { return power_of(level::broadcast<float>(x))[0]; };
  const bool right =
      one(-infinity) == 0 && one(-3e38f) == 0 && one(-127.5f) <= 0x1p-126f && std::isnan(one(nan));
  std::printf("infinity and NaN: %s\n", right ? "right" : "WRONG");
  if (!right) failed = true;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned step = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : 61;
  if (step == 0) return 2;
  // Positive, then negative numbers from 2^-40 to 2^10: smaller numbers behave like 0.
  Measurement<float> single("float", 2e-7, 8e-8, 2.5e-7, 3e-7);
  for (const unsigned sign : {0u, 0x80000000u}) {
    for (unsigned bits = 0x2b800000u; bits < 0x44800000u; bits += step) {
      const unsigned pattern = sign | bits;
      float x;
      std::memcpy(&x, &pattern, sizeof(x));
      single.add(x);
    }
  }
  single.finish();
  special_values<float>();
  powers_of_two(step);

  Measurement<double> wide("double", 3e-16, 0, 1e-15, 1e-15);
  for (int i = -500000; i <= 500000; ++i) {
    wide.add(i * 1.6e-5 + 1e-9);
    wide.add(i * 1.3e-3 + 1e-7);
  }
  wide.finish();
  special_values<double>();
  return failed ? 1 : 0;
}
