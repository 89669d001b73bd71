#include "transnext/position_bias_table.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

struct Sizes {
  index_t heads, hidden;
};

// Reads the tensors that forward and backward have in common.
template <class Params>
Sizes read_inputs(Call& call, py::handle row_coords, py::handle col_coords, py::handle fc1_weight,
                  py::handle fc1_bias, py::handle fc2_weight, Params& p) {
  p.row_coords = call.parameter<1>(row_coords, "row_coords", {kAny});
  p.col_coords = call.parameter<1>(col_coords, "col_coords", {kAny});
  p.fc2_weight = call.parameter<2>(fc2_weight, "fc2_weight", {kAny, kAny});
  const index_t heads = p.fc2_weight.shape[0];
  const index_t hidden = p.fc2_weight.shape[1];
  p.fc1_weight = call.parameter<2>(fc1_weight, "fc1_weight", {hidden, 2});
  p.fc1_bias = call.parameter<1>(fc1_bias, "fc1_bias", {hidden});
  return {heads, hidden};
}

void position_bias_table(py::handle row_coords, py::handle col_coords, py::handle fc1_weight,
                         py::handle fc1_bias, py::handle fc2_weight, py::handle fc2_bias,
                         py::handle table, int threads) {
  Call call("position_bias_table");
  PositionBiasTableParams p;
  const auto [heads, hidden] =
      read_inputs(call, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, p);
  p.fc2_bias = call.parameter<1>(fc2_bias, "fc2_bias", {heads});
  p.table =
      call.parameter<3>(table, "table", {heads, p.row_coords.shape[0], p.col_coords.shape[0]});
  call.run(threads, p, cpu::position_bias_table, launches);
}

void position_bias_table_backward(py::handle d_table, py::handle row_coords, py::handle col_coords,
                                  py::handle fc1_weight, py::handle fc1_bias, py::handle fc2_weight,
                                  py::handle fc2_bias, py::handle d_fc1_weight,
                                  py::handle d_fc1_bias, py::handle d_fc2_weight,
                                  py::handle d_fc2_bias, int threads) {
  Call call("position_bias_table_backward");
  PositionBiasTableBackwardParams p;
  const auto [heads, hidden] =
      read_inputs(call, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, p);
  call.parameter<1>(fc2_bias, "fc2_bias", {heads});  // only its gradient is computed
  p.d_table =
      call.parameter<3>(d_table, "d_table", {heads, p.row_coords.shape[0], p.col_coords.shape[0]});
  p.d_fc1_weight = call.optional_parameter<2>(d_fc1_weight, "d_fc1_weight", {hidden, 2});
  p.d_fc1_bias = call.optional_parameter<1>(d_fc1_bias, "d_fc1_bias", {hidden});
  p.d_fc2_weight = call.optional_parameter<2>(d_fc2_weight, "d_fc2_weight", {heads, hidden});
  p.d_fc2_bias = call.optional_parameter<1>(d_fc2_bias, "d_fc2_bias", {heads});
  call.run(threads, p, cpu::position_bias_table_backward, launches);
}

}  // namespace

void define_position_bias_table(py::module_& m) {
  m.def("position_bias_table", &position_bias_table);
  m.def("position_bias_table_backward", &position_bias_table_backward);
}

}  // namespace transnext::bindings
