#include "transnext/linear.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

void pack_weight(py::handle weight, py::handle packed, std::pair<index_t, index_t> sizes,
                 int threads, std::uintptr_t stream) {
  Call call("pack_weight");
  PackWeightParams p;
  const auto [columns, depth] = sizes;
  const PackedWeight target = call.packed(packed, "packed", columns, depth);
  p.weight = call.floating<2>(weight, "weight", {columns, depth});
  p.packed.data = const_cast<void*>(target.data);
  p.packed.dtype = target.dtype;
  p.packed.shape[0] = packed_weight_size(target.dtype, target.columns, target.depth);
  p.packed.stride[0] = 1;
  call.run(threads, stream, p, cpu::pack_weight);
}

void linear(py::handle x, py::handle norm_weight, py::handle norm_bias, py::handle packed,
            py::handle bias, py::handle residual, py::handle out, std::pair<index_t, index_t> sizes,
            double epsilon, int threads, std::uintptr_t stream) {
  Call call("linear");
  LinearParams p;
  const auto [columns, depth] = sizes;
  p.weight = call.packed(packed, "packed", columns, depth);
  p.x = call.floating<2>(x, "x", {kAny, depth});
  p.out = call.floating<2>(out, "out", {p.x.shape[0], columns});
  p.norm = call.norm(norm_weight, norm_bias, depth, epsilon);
  p.bias = call.optional_parameter<1>(bias, "bias", {columns});
  if (!residual.is_none()) {
    p.residual = call.floating<2>(residual, "residual", {p.out.shape[0], p.out.shape[1]});
    if (p.residual.dtype != p.out.dtype) call.fail("residual and out differ in type");
  }
  call.run(threads, stream, p, cpu::linear);
}

}  // namespace

void define_linear(py::module_& m) {
  m.def("packed_weight_size", [](const std::string& dtype, index_t columns, index_t depth) {
    return packed_weight_size(dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32, columns,
                              depth);
  });
  m.def("pack_weight", &pack_weight, py::arg("weight"), py::arg("packed"), py::arg("sizes"),
        py::arg("threads") = 1, py::arg("stream") = 0);
  m.def("linear", &linear, py::arg("x"), py::arg("norm_weight"), py::arg("norm_bias"),
        py::arg("packed"), py::arg("bias"), py::arg("residual"), py::arg("out"), py::arg("sizes"),
        py::arg("epsilon"), py::arg("threads") = 1, py::arg("stream") = 0);
}

}  // namespace transnext::bindings
