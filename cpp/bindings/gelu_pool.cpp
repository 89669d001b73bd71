#include "transnext/gelu_pool.h"

#include "bindings/call.h"
#include "bindings/operators.h"
#include "cuda/plans/launch_plan.h"

namespace transnext::bindings {
namespace {

// The pooled grid, which is no finer than the grid.
Grid pool_grid_of(const Call& call, const Grid& grid, GridArgument pool_grid) {
  const Grid pool = call.grid(pool_grid, "pool_grid");
  if (pool.height > grid.height || pool.width > grid.width)
    call.fail("pool_grid is (" + std::to_string(pool.height) + ", " + std::to_string(pool.width) +
              "), needs at most the grid (" + std::to_string(grid.height) + ", " +
              std::to_string(grid.width) + ")");
  return pool;
}

void gelu_pool(py::handle x, py::handle out, GridArgument grid, GridArgument pool_grid, int threads,
               std::uintptr_t stream) {
  Call call("gelu_pool");
  GeluPoolParams p;
  p.grid = call.grid(grid, "grid");
  p.pool_grid = pool_grid_of(call, p.grid, pool_grid);
  p.x = call.activation<3>(x, "x", {kAnyBatch, p.grid.size(), kAny});
  p.out = call.activation<3>(out, "out", {p.x.shape[0], p.pool_grid.size(), p.x.shape[2]});
  call.run(threads, stream, p, cpu::gelu_pool, launches);
}

void gelu_pool_backward(py::handle d_out, py::handle x, py::handle d_x, GridArgument grid,
                        GridArgument pool_grid, int threads, std::uintptr_t stream) {
  Call call("gelu_pool_backward");
  GeluPoolBackwardParams p;
  p.grid = call.grid(grid, "grid");
  p.pool_grid = pool_grid_of(call, p.grid, pool_grid);
  p.x = call.activation<3>(x, "x", {kAnyBatch, p.grid.size(), kAny});
  p.d_out = call.activation<3>(d_out, "d_out", {p.x.shape[0], p.pool_grid.size(), p.x.shape[2]});
  p.d_x = call.activation<3>(d_x, "d_x", {p.x.shape[0], p.x.shape[1], p.x.shape[2]});
  call.run(threads, stream, p, cpu::gelu_pool_backward, launches);
}

// (grid, block, dynamic shared bytes) of the CUDA launch; needs no GPU and no CUDA build.
py::tuple as_tuple(const LaunchPlan& plan) {
  return py::make_tuple(py::make_tuple(plan.grid[0], plan.grid[1], plan.grid[2]),
                        py::make_tuple(plan.block[0], plan.block[1], plan.block[2]),
                        plan.shared_bytes);
}

py::tuple plan(index_t batch, index_t channels, GridArgument grid, GridArgument pool_grid) {
  const Call call("gelu_pool_plan");
  return as_tuple(
      gelu_pool_plan(batch, channels, call.grid(grid, "grid"), call.grid(pool_grid, "pool_grid")));
}

py::tuple backward_plan(index_t batch, index_t channels, GridArgument grid) {
  const Call call("gelu_pool_backward_plan");
  return as_tuple(gelu_pool_backward_plan(batch, channels, call.grid(grid, "grid")));
}

}  // namespace

void define_gelu_pool(py::module_& m) {
  m.def("gelu_pool", &gelu_pool, py::arg("x"), py::arg("out"), py::arg("grid"),
        py::arg("pool_grid"), py::arg("threads") = 1, py::arg("stream") = 0);
  m.def("gelu_pool_backward", &gelu_pool_backward, py::arg("d_out"), py::arg("x"), py::arg("d_x"),
        py::arg("grid"), py::arg("pool_grid"), py::arg("threads") = 1, py::arg("stream") = 0);
  m.def("gelu_pool_plan", &plan, py::arg("batch"), py::arg("channels"), py::arg("grid"),
        py::arg("pool_grid"));
  m.def("gelu_pool_backward_plan", &backward_plan, py::arg("batch"), py::arg("channels"),
        py::arg("grid"));
}

}  // namespace transnext::bindings
