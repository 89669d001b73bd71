#include "transnext/linear.h"

#include "bindings/call.h"
#include "bindings/operators.h"
#include "transnext/weight_gradient.h"

namespace transnext::bindings {
namespace {

void pack_weight(py::handle weight, py::handle packed, std::pair<index_t, index_t> sizes,
                 int threads) {
  Call call("pack_weight");
  PackWeightParams p;
  const auto [columns, depth] = sizes;
  const PackedWeight target = call.packed(packed, "packed", columns, depth);
  p.weight = call.floating<2>(weight, "weight", {columns, depth});
  p.packed.data = const_cast<void*>(target.data);
  p.packed.dtype = target.dtype;
  p.packed.shape[0] = packed_weight_size(target.dtype, target.columns, target.depth);
  p.packed.stride[0] = 1;
  call.run(threads, p, cpu::pack_weight);
}

void linear(py::handle x, py::handle weight, py::handle bias, py::handle out,
            std::pair<index_t, index_t> sizes, int threads) {
  Call call("linear");
  LinearParams p;
  const auto [columns, depth] = sizes;
  p.weight = call.packed(weight, "weight", columns, depth);
  p.bias = call.optional_parameter<1>(bias, "bias", {columns});
  p.x = call.floating<2>(x, "x", {kAnyBatch, depth});
  p.out = call.floating<2>(out, "out", {p.x.shape[0], columns});
  call.run(threads, p, cpu::linear);
}

void weight_gradient(py::handle d_out, py::handle x, py::handle d_weight, py::handle d_bias,
                     int threads) {
  Call call("weight_gradient");
  WeightGradientParams p;
  p.x = call.activation<2>(x, "x", {kAnyBatch, kAny});
  p.d_out = call.activation<2>(d_out, "d_out", {p.x.shape[0], kAny});
  const index_t columns = p.d_out.shape[1];
  p.d_weight = call.floating<2>(d_weight, "d_weight", {columns, p.x.shape[1]});
  if (!d_bias.is_none()) p.d_bias = call.floating<1>(d_bias, "d_bias", {columns});
  call.run(threads, p, cpu::weight_gradient);
}

}  // namespace

void define_linear(py::module_& m) {
  m.def("packed_weight_size", [](const std::string& dtype, index_t columns, index_t depth) {
    const Call call("packed_weight_size");
    if (columns < 1 || depth < 1 || columns > kLargestSize || depth > kLargestSize)
      call.fail("the weight is [" + std::to_string(columns) + ", " + std::to_string(depth) +
                "], needs positive sizes that fit into memory");
    const DType type = dtype == "int32" ? kSplitFloat : call.dtype(dtype, "dtype");
    return packed_weight_size(type, columns, depth);
  });
  m.def("pack_weight", &pack_weight, py::arg("weight"), py::arg("packed"), py::arg("sizes"),
        py::arg("threads") = 1);
  m.def("linear", &linear, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("out"),
        py::arg("sizes"), py::arg("threads") = 1);
  m.def("weight_gradient", &weight_gradient, py::arg("d_out"), py::arg("x"), py::arg("d_weight"),
        py::arg("d_bias"), py::arg("threads") = 1);
}

}  // namespace transnext::bindings
