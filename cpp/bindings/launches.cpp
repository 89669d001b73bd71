#include "cuda/plans/launches.h"

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>

#include "bindings/call.h"
#include "bindings/operators.h"
#include "bindings/recording.h"

#if defined(TRANSNEXT_WITH_CUDA)
#include "cuda/compiled/run.h"
#endif

namespace transnext::bindings {
namespace {

namespace py = pybind11;

py::tuple sizes(const unsigned (&values)[3]) {
  return py::make_tuple(values[0], values[1], values[2]);
}

// The launches of `function(*arguments)`, a bound operator, on a GPU of this architecture.
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

// Whether a block of the attention kernels, forward and backward, fits into a GPU's shared memory
// with all optional inputs and a pooled grid of kLargestPool by kLargestPool.
bool attention_fits(const std::string& dtype, index_t channels, index_t window, int architecture) {
  constexpr index_t kLargestPool = 64;
  static char present;  // placeholder for data that a plan does not read
  const DType type = Call("attention_fits").dtype(dtype, "dtype");
  AggregatedAttentionBackwardParams p;
  AggregatedAttentionInputs& in = p.in;
  const index_t side = kLargestPool;
  in.grid = in.pool_grid = {side, side};
  in.window_size = window;
  const auto fill = [&](auto& view, DType element, std::initializer_list<index_t> shape) {
    view.data = &present;
    view.dtype = element;
    index_t axis = 0;
    for (const index_t size : shape) view.shape[axis++] = size;
  };
  const index_t cells = window * window;
  for (View<4>* view : {&in.q, &in.k, &in.v, &in.k_pool, &in.v_pool, &p.d_out, &p.out, &p.d_q,
                        &p.d_k, &p.d_v, &p.d_k_pool, &p.d_v_pool})
    fill(*view, type, {1, side * side, 1, channels});
  if (window == 0) in.k = in.v = p.d_k = p.d_v = {};
  fill(p.log_sum_exp, DType::kFloat32, {1, side * side, 1});
  for (View<1>* view : {&in.scale, &p.d_scale}) fill(*view, DType::kFloat32, {1});
  for (View<2>* view : {&in.query_embedding, &p.d_query_embedding})
    fill(*view, DType::kFloat32, {1, channels});
  for (View<2>* view : {&in.local_bias, &in.token_bias, &p.d_local_bias, &p.d_token_bias})
    fill(*view, DType::kFloat32, {1, cells});
  for (View<3>* view : {&in.tokens, &p.d_tokens})
    fill(*view, DType::kFloat32, {1, channels, cells});
  for (View<3>* view : {&in.pool_bias.values, &p.d_pool_bias})
    fill(*view, DType::kFloat32, {1, 2 * side, 2 * side});
  fill(in.pool_bias.row_map, DType::kInt32, {side, side});
  fill(in.pool_bias.col_map, DType::kInt32, {side, side, 4});
  fill(in.pool_bias.col_weights, DType::kFloat32, {side, side, 4});
  try {
    launches(p, architecture);
    for (const bool allow_tf32 : {false, true})
      launches(AggregatedAttentionParams{in, p.out, p.log_sum_exp, allow_tf32}, architecture);
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

void run_launches([[maybe_unused]] const char* op, [[maybe_unused]] const Launches& launches,
                  [[maybe_unused]] int device, [[maybe_unused]] std::uintptr_t stream) {
#if defined(TRANSNEXT_WITH_CUDA)
  py::gil_scoped_release release;
  cuda::run(op, launches, device, reinterpret_cast<void*>(stream));
#else
  throw std::runtime_error(std::string(op) +
                           ": the compiled library has no CUDA kernels, needs to be built with "
                           "nvcc on PATH (TRANSNEXT_CUDA=ON says what it lacks)");
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
  m.def("attention_fits", &attention_fits, py::arg("dtype"), py::arg("head_dim"),
        py::arg("window_size"), py::arg("architecture"));
  m.def("run_launches", &run_launches, py::arg("op"), py::arg("launches"), py::arg("device"),
        py::arg("stream"));
}

}  // namespace transnext::bindings
