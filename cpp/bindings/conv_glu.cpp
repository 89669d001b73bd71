#include "transnext/conv_glu.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

void conv_glu(py::handle x, py::handle weight, py::handle bias, py::handle x_bias, py::handle out,
              GridArgument grid, int threads) {
  Call call("conv_glu");
  ConvGluParams p;
  p.grid = call.grid(grid, "grid");
  p.out = call.activation<3>(out, "out", {kAnyBatch, p.grid.size(), kAny});
  const index_t hidden = p.out.shape[2];
  p.x = call.activation<3>(x, "x", {p.out.shape[0], p.grid.size(), 2 * hidden});
  p.weight = call.parameter<4>(weight, "weight", {hidden, 1, 3, 3});
  p.bias = call.optional_parameter<1>(bias, "bias", {hidden});
  p.x_bias = call.optional_parameter<1>(x_bias, "x_bias", {2 * hidden});
  call.run(threads, p, cpu::conv_glu, launches);
}

void conv_glu_backward(py::handle d_out, py::handle x, py::handle weight, py::handle bias,
                       py::handle x_bias, py::handle d_x, py::handle d_weight, py::handle d_bias,
                       py::handle d_x_bias, GridArgument grid, int threads) {
  Call call("conv_glu_backward");
  ConvGluBackwardParams p;
  p.grid = call.grid(grid, "grid");
  p.d_out = call.activation<3>(d_out, "d_out", {kAnyBatch, p.grid.size(), kAny});
  const index_t batch = p.d_out.shape[0];
  const index_t hidden = p.d_out.shape[2];
  p.x = call.activation<3>(x, "x", {batch, p.grid.size(), 2 * hidden});
  p.weight = call.parameter<4>(weight, "weight", {hidden, 1, 3, 3});
  p.bias = call.optional_parameter<1>(bias, "bias", {hidden});
  p.x_bias = call.optional_parameter<1>(x_bias, "x_bias", {2 * hidden});
  p.d_x = call.optional_activation<3>(d_x, "d_x", {batch, p.grid.size(), 2 * hidden});
  p.d_weight = call.optional_parameter<4>(d_weight, "d_weight", {hidden, 1, 3, 3});
  p.d_bias = call.optional_parameter<1>(d_bias, "d_bias", {hidden});
  p.d_x_bias = call.optional_parameter<1>(d_x_bias, "d_x_bias", {2 * hidden});
  call.run(threads, p, cpu::conv_glu_backward, launches);
}

}  // namespace

void define_conv_glu(py::module_& m) {
  m.def("conv_glu", &conv_glu, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("x_bias"),
        py::arg("out"), py::arg("grid"), py::arg("threads") = 1);
  m.def("conv_glu_backward", &conv_glu_backward, py::arg("d_out"), py::arg("x"), py::arg("weight"),
        py::arg("bias"), py::arg("x_bias"), py::arg("d_x"), py::arg("d_weight"), py::arg("d_bias"),
        py::arg("d_x_bias"), py::arg("grid"), py::arg("threads") = 1);
}

}  // namespace transnext::bindings
