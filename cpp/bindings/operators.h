// The groups of operators that module.cpp adds to the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace transnext::bindings {

void define_gelu_pool(pybind11::module_& m);
void define_conv_glu(pybind11::module_& m);
void define_deformable_attention(pybind11::module_& m);
void define_window(pybind11::module_& m);
void define_position_bias_table(pybind11::module_& m);
void define_add_layer_norm(pybind11::module_& m);
void define_aggregated_attention(pybind11::module_& m);
void define_launches(pybind11::module_& m);
void define_linear(pybind11::module_& m);
void define_program(pybind11::module_& m);
void define_fused_blocks(pybind11::module_& m);
void define_fingerprint(pybind11::module_& m);

}  // namespace transnext::bindings
