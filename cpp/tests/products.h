// `linear` against sums in double precision, for every type of packed weight that a level has.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/case.h"

namespace transnext::tests {

// The largest error of any product of `rows` rows by a weight [columns, depth], over the sum of its
// terms' sizes.
template <class T>
double error_of_products(DType storage, DType packed_type, index_t rows, index_t columns,
                         index_t depth) {
  unsigned random = 7;
  const auto fill = [&](std::vector<T>& values) {
    for (T& value : values) {
      random = random * 1664525u + 1013904223u;
      level::convert_from(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(
                              static_cast<double>(random >> 8) / (1 << 23) - 1.0),
                          &value);
    }
  };
  std::vector<T> x(static_cast<std::size_t>(rows * depth));
  std::vector<T> weight(static_cast<std::size_t>(columns * depth));
  fill(x);
  fill(weight);
  using Compute = std::conditional_t<sizeof(T) == 8, double, float>;
  std::vector<Compute> out(static_cast<std::size_t>(rows * columns));
  const index_t size = packed_weight_size(packed_type, columns, depth);
  std::vector<double> packed(static_cast<std::size_t>(size));  // room for any type

  const auto matrix = [](void* data, DType dtype, index_t height, index_t width) {
    View<2> view;
    view.data = data;
    view.dtype = dtype;
    view.shape[0] = height;
    view.shape[1] = width;
    view.stride[0] = width;
    view.stride[1] = 1;
    return view;
  };
  PackWeightParams pack;
  pack.weight = matrix(weight.data(), storage, columns, depth);
  pack.packed.data = packed.data();
  pack.packed.dtype = packed_type;
  pack.packed.shape[0] = size;
  pack.packed.stride[0] = 1;
  level::pack_weight(pack, 1);
  LinearParams linear;
  linear.x = matrix(x.data(), storage, rows, depth);
  linear.weight = {packed.data(), packed_type, columns, depth};
  linear.out =
      matrix(out.data(), sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32, rows, columns);
  level::linear(linear, 2);

  double largest = 0;
  for (index_t row = 0; row < rows; ++row) {
    for (index_t column = 0; column < columns; ++column) {
      double sum = 0;
      double sizes = 0;
      for (index_t k = 0; k < depth; ++k) {
        const auto a = static_cast<double>(level::convert_to<Compute>(x[row * depth + k]));
        const auto b = static_cast<double>(level::convert_to<Compute>(weight[column * depth + k]));
        sum += a * b;
        sizes += std::abs(a * b);
      }
      const double error = std::abs(out[row * columns + column] - sum) / sizes;
      if (!(error <= largest)) largest = error;  // NaN stays
    }
  }
  return largest;
}

// Calls check(right, what) for shapes around the sides of tiles and panels.
template <class Check>
void check_products(Check&& check) {
  constexpr index_t kShapes[][3] = {{1, 1, 1},    {2, 8, 4},    {7, 9, 5},    {16, 16, 32},
                                    {17, 33, 33}, {31, 47, 67}, {33, 49, 72}, {101, 96, 150}};
  for (const auto& [rows, columns, depth] : kShapes) {
    const auto within = [&, r = rows, c = columns, d = depth](double error, double allowed,
                                                              const char* type) {
      check(error <= allowed, std::string("products of ") + type + " [" + std::to_string(r) + ", " +
                                  std::to_string(d) + "] by " + std::to_string(c) +
                                  " columns: error " + std::to_string(error));
    };
    within(error_of_products<double>(DType::kFloat64, DType::kFloat64, rows, columns, depth), 4e-15,
           "float64");
    within(error_of_products<float>(DType::kFloat32, DType::kFloat32, rows, columns, depth), 1e-6,
           "float32");
    within(error_of_products<BFloat16>(DType::kBFloat16, DType::kBFloat16, rows, columns, depth),
           1e-6, "bfloat16");
#if defined(TRANSNEXT_TILES)
    within(error_of_products<float>(DType::kFloat32, kSplitFloat, rows, columns, depth), 6.2e-5,
           "split float32");
#endif
  }
}

}  // namespace transnext::tests
