#include "transnext/add_layer_norm.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

void add_layer_norm(py::handle branch, py::handle x, py::handle weight, py::handle bias,
                    py::handle branch_scale, py::handle branch_bias, py::handle normed,
                    py::handle total, double epsilon, int threads) {
  Call call("add_layer_norm");
  AddLayerNormParams p;
  p.epsilon = epsilon;
  p.branch = call.activation<3>(branch, "branch", {kAnyBatch, kAny, kAny});
  const index_t batch = p.branch.shape[0];
  const index_t tokens = p.branch.shape[1];
  const index_t channels = p.branch.shape[2];
  p.x = call.parameter<3>(x, "x", {batch, tokens, channels});
  p.weight = call.parameter<1>(weight, "weight", {channels});
  p.bias = call.parameter<1>(bias, "bias", {channels});
  p.branch_scale = call.optional_parameter<1>(branch_scale, "branch_scale", {batch});
  p.branch_bias = call.optional_parameter<1>(branch_bias, "branch_bias", {channels});
  p.normed = call.activation<3>(normed, "normed", {batch, tokens, channels});
  p.total = call.parameter<3>(total, "total", {batch, tokens, channels});
  call.run(threads, p, cpu::add_layer_norm, launches);
}

void add_layer_norm_backward(py::handle d_normed, py::handle d_total, py::handle total,
                             py::handle weight, py::handle branch_scale, py::handle d_branch,
                             py::handle d_x, py::handle d_weight, py::handle d_bias,
                             py::handle d_branch_bias, double epsilon, int threads) {
  Call call("add_layer_norm_backward");
  AddLayerNormBackwardParams p;
  p.epsilon = epsilon;
  p.d_normed = call.activation<3>(d_normed, "d_normed", {kAnyBatch, kAny, kAny});
  const index_t batch = p.d_normed.shape[0];
  const index_t tokens = p.d_normed.shape[1];
  const index_t channels = p.d_normed.shape[2];
  p.d_total = call.optional_parameter<3>(d_total, "d_total", {batch, tokens, channels});
  p.total = call.parameter<3>(total, "total", {batch, tokens, channels});
  p.weight = call.parameter<1>(weight, "weight", {channels});
  p.branch_scale = call.optional_parameter<1>(branch_scale, "branch_scale", {batch});
  p.d_branch = call.optional_activation<3>(d_branch, "d_branch", {batch, tokens, channels});
  p.d_x = call.optional_parameter<3>(d_x, "d_x", {batch, tokens, channels});
  p.d_weight = call.optional_parameter<1>(d_weight, "d_weight", {channels});
  p.d_bias = call.optional_parameter<1>(d_bias, "d_bias", {channels});
  p.d_branch_bias = call.optional_parameter<1>(d_branch_bias, "d_branch_bias", {channels});
  call.run(threads, p, cpu::add_layer_norm_backward, launches);
}

}  // namespace

void define_add_layer_norm(py::module_& m) {
  m.def("add_layer_norm", &add_layer_norm, py::arg("branch"), py::arg("x"), py::arg("weight"),
        py::arg("bias"), py::arg("branch_scale"), py::arg("branch_bias"), py::arg("normed"),
        py::arg("total"), py::arg("epsilon"), py::arg("threads") = 1);
  m.def("add_layer_norm_backward", &add_layer_norm_backward, py::arg("d_normed"),
        py::arg("d_total"), py::arg("total"), py::arg("weight"), py::arg("branch_scale"),
        py::arg("d_branch"), py::arg("d_x"), py::arg("d_weight"), py::arg("d_bias"),
        py::arg("d_branch_bias"), py::arg("epsilon"), py::arg("threads") = 1);
}

}  // namespace transnext::bindings
