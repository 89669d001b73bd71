// The tensors of one test case: random inputs in a chosen storage type and layout, results that start
// as NaN. Every tensor is an allocation of exactly the elements its strides reach, for the sanitizers.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/runtime/kernels.h"
#include "cpu/simd/convert.h"

namespace level = transnext::cpu::TRANSNEXT_CPU_LEVEL;

namespace transnext::tests {

enum class Layout { kContiguous, kSliced, kTransposed };

// The tensors of one case, which owns them.
class Case {
 public:
  Case(DType dtype, Layout layout) : dtype_(dtype), layout_(layout) {}

  // An activation in the storage type and the case's layout.
  template <int kRank>
  View<kRank> activation(const index_t (&shape)[kRank]) {
    return make(dtype_, shape, layout_, true);
  }
  template <int kRank>
  View<kRank> parameter(const index_t (&shape)[kRank]) {
    return make(compute(), shape, Layout::kContiguous, true);
  }
  // Results start as NaN, so an element that is not written is detected.
  template <int kRank>
  View<kRank> result(const index_t (&shape)[kRank]) {
    return remember(make(dtype_, shape, Layout::kContiguous, false));
  }
  template <int kRank>
  View<kRank> parameter_result(const index_t (&shape)[kRank]) {
    return remember(make(compute(), shape, Layout::kContiguous, false));
  }
  // A random weight, packed for GEMMs of its type; float32 for the tile unit, where there is one.
  PackedWeight packed(index_t columns, index_t depth, int threads) {
    DType product = dtype_ == DType::kFloat16 ? DType::kFloat32 : dtype_;
#if defined(TRANSNEXT_TILES)
    if (dtype_ == DType::kFloat32) product = kSplitFloat;
#endif
    PackWeightParams p;
    p.weight = parameter({columns, depth});
    p.packed =
        make(product, {packed_weight_size(product, columns, depth)}, Layout::kContiguous, false);
    level::pack_weight(p, threads);
    return {p.packed.data, product, columns, depth};
  }
  LayerNormParams norm(index_t depth) {
    LayerNormParams params;
    params.weight = parameter({depth});
    params.bias = parameter({depth});
    params.epsilon = 1e-5;
    return params;
  }
  // Indices 0 .. bound - 1.
  template <int kRank>
  View<kRank> indices(const index_t (&shape)[kRank], int bound) {
    View<kRank> view = make(DType::kInt32, shape, Layout::kContiguous, false);
    for (index_t i = 0; i < elements(view); ++i)
      static_cast<int*>(view.data)[i] = static_cast<int>(next() % static_cast<unsigned>(bound));
    return view;
  }

  // The bytes of all results; `finite` becomes whether all of them are finite.
  std::vector<char> results(bool* finite) const {
    std::vector<char> all;
    *finite = true;
    for (const Result& result : results_) {
      all.insert(all.end(), result.data, result.data + result.count * element_size(result.dtype));
      for (std::size_t i = 0; i < result.count; ++i)
        *finite = *finite && std::isfinite(element(result.data, result.dtype, i));
    }
    return all;
  }

 private:
  struct Result {
    const char* data;
    DType dtype;
    std::size_t count;
  };

  DType compute() const { return dtype_ == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

  unsigned next() { return random_ = random_ * 1664525u + 1013904223u, random_ >> 8; }

  static double element(const char* data, DType dtype, std::size_t i) {
    switch (dtype) {
      case DType::kFloat64:
        return reinterpret_cast<const double*>(data)[i];
      case DType::kFloat32:
        return reinterpret_cast<const float*>(data)[i];
      case DType::kFloat16:
        return level::to_float(reinterpret_cast<const Half*>(data)[i]);
      default:
        return level::convert_to<float>(reinterpret_cast<const BFloat16*>(data)[i]);
    }
  }

  void put(char* data, DType dtype, index_t i, double value) {
    const float single = static_cast<float>(value);
    switch (dtype) {
      case DType::kFloat64:
        reinterpret_cast<double*>(data)[i] = value;
        break;
      case DType::kFloat32:
        reinterpret_cast<float*>(data)[i] = single;
        break;
      case DType::kFloat16:
        level::convert_from(single, reinterpret_cast<Half*>(data) + i);
        break;
      case DType::kBFloat16:
        level::convert_from(single, reinterpret_cast<BFloat16*>(data) + i);
        break;
      case DType::kInt32:
        break;
    }
  }

  template <int kRank>
  static index_t elements(const View<kRank>& view) {
    index_t count = 1;
    for (const index_t size : view.shape) count *= size;
    return count;
  }

  template <int kRank>
  View<kRank> make(DType dtype, const index_t (&shape)[kRank], Layout layout, bool random) {
    View<kRank> view;
    view.dtype = dtype;
    // Transposed: the last dimension is the slowest. Sliced: every second channel of wider tokens.
    index_t stride = layout == Layout::kSliced ? 2 : 1;
    index_t reach = 1;
    for (int i = kRank - 1; i >= 0; --i) {
      const int axis = layout == Layout::kTransposed ? kRank - 1 - i : i;
      view.shape[axis] = shape[axis];
      view.stride[axis] = stride;
      stride *= shape[axis] > 0 ? shape[axis] : 1;
      if (layout == Layout::kSliced && axis == kRank - 1) stride += 3;
      reach += (shape[axis] - 1) * view.stride[axis];
    }
    const bool empty = elements(view) == 0;
    const std::size_t bytes = empty ? 1 : static_cast<std::size_t>(reach * element_size(dtype));
    storage_.emplace_back(static_cast<char*>(std::malloc(bytes)), std::free);
    char* data = storage_.back().get();
    std::memset(data, 0xff, bytes);  // NaN in every type
    for (index_t i = 0; random && !empty && i < reach; ++i)
      put(data, dtype, i, static_cast<double>(next() % 4001) / 1000.0 - 2.0);
    view.data = data;
    return view;
  }

  template <int kRank>
  View<kRank> remember(const View<kRank>& view) {
    results_.push_back({static_cast<const char*>(view.data), view.dtype,
                        static_cast<std::size_t>(elements(view))});
    return view;
  }

  DType dtype_;
  Layout layout_;
  unsigned random_ = 12345;
  std::vector<std::unique_ptr<char, void (*)(void*)>> storage_;
  std::vector<Result> results_;
};

}  // namespace transnext::tests
