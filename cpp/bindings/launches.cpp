#include "transnext/launches.h"

#include <cstdint>
#include <stdexcept>

#include <pybind11/pybind11.h>

#include "bindings/operators.h"
#include "bindings/recording.h"

#if defined(TRANSNEXT_WITH_CUDA)
#include "transnext/cuda_run.h"
#endif

namespace transnext::bindings {
namespace {

namespace py = pybind11;

py::tuple sizes(const unsigned (&values)[3]) {
  return py::make_tuple(values[0], values[1], values[2]);
}

// What `function(*arguments)`, a bound operator, would run on a GPU of this architecture.
Launches record_launches(const py::function& function, const py::tuple& arguments,
                         int architecture) {
  Recording recording(architecture);
  function(*arguments);
  return recording.launches;
}

// (kernel, grid, block, dynamic shared bytes, params) of every kernel.
py::list kernels(const Launches& launches) {
  py::list result;
  for (const KernelLaunch& launch : launches.kernels) {
    result.append(py::make_tuple(
        launch.kernel, sizes(launch.plan.grid), sizes(launch.plan.block), launch.plan.shared_bytes,
        py::bytes(reinterpret_cast<const char*>(launch.params.data()), launch.params.size())));
  }
  return result;
}

void run_launches([[maybe_unused]] const char* op, [[maybe_unused]] const Launches& launches,
                  [[maybe_unused]] int device, [[maybe_unused]] std::uintptr_t stream) {
#if defined(TRANSNEXT_WITH_CUDA)
  py::gil_scoped_release release;
  cuda::run(op, launches, device, reinterpret_cast<void*>(stream));
#else
  throw std::runtime_error("the library was built without CUDA kernels");
#endif
}

}  // namespace

void define_launches(py::module_& m) {
  py::class_<Launches>(m, "Launches")
      .def_readonly("source", &Launches::source)
      .def_readonly("workspace", &Launches::workspace)
      .def_property_readonly("kernels", &kernels)
      .def("place_workspace", [](Launches& launches, std::uintptr_t address) {
        launches.place_workspace(reinterpret_cast<void*>(address));
      });
  m.def("record_launches", &record_launches, py::arg("function"), py::arg("arguments"),
        py::arg("architecture"));
  m.def("run_launches", &run_launches, py::arg("op"), py::arg("launches"), py::arg("device"),
        py::arg("stream"));
}

}  // namespace transnext::bindings
