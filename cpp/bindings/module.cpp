// transnext_ops._cpp: the compiled operators.
//
// The arguments of each operator are its input tensors, the outputs to fill, sizes, and the number
// of CPU threads. None means an absent input or a gradient that is not needed. Tensors are read
// through DLPack's C interface, or as DLPack capsules if their type has none. On CPU tensors an
// operator runs at once; record_launches() returns what it launches on a GPU, and run_launches()
// runs that on a stream.
#include <pybind11/stl.h>

#include "bindings/call.h"
#include "bindings/operators.h"
#include "cpu/runtime/dispatch.h"

namespace py = pybind11;

PYBIND11_MODULE(_cpp, m) {
  m.doc() = "Compiled operators of transnext_ops; use them through transnext_ops.";
  m.attr("__version__") = TRANSNEXT_VERSION;
#if defined(TRANSNEXT_WITH_CUDA)
  m.attr("cuda_architectures") = TRANSNEXT_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_architectures") = py::none();
#endif
  py::register_exception<transnext::bindings::UnreadableTensor>(m, "UnreadableTensor",
                                                                PyExc_ValueError);
  m.def("cpu_level", &transnext::cpu::level_name,
        "Name of the instruction set the CPU kernels run with.");
  m.def("available_cpu_levels", &transnext::cpu::available_levels,
        "Names of the instruction sets this build has and this process can run.");
  m.def("passed_over_cpu_levels", &transnext::cpu::passed_over_levels,
        "Instruction sets that this processor has and kernels do not run with, and why.");
  m.def("splits_float32", &transnext::cpu::splits_float32,
        "Whether kernels can multiply float32 split into bfloat16 here, and now.");
  m.def("set_cpu_level", &transnext::cpu::set_level, py::arg("name").none(true),
        "Change the instruction set for later calls; None for the default.");
  transnext::bindings::define_add_layer_norm(m);
  transnext::bindings::define_aggregated_attention(m);
  transnext::bindings::define_fused_blocks(m);
  transnext::bindings::define_conv_glu(m);
  transnext::bindings::define_deformable_attention(m);
  transnext::bindings::define_fingerprint(m);
  transnext::bindings::define_gelu_pool(m);
  transnext::bindings::define_launches(m);
  transnext::bindings::define_linear(m);
  transnext::bindings::define_position_bias_table(m);
  transnext::bindings::define_program(m);
  transnext::bindings::define_window(m);
}
