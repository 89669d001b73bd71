#include "transnext/gelu_pool.h"

#include "bindings/call.h"
#include "bindings/operators.h"

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

void gelu_pool(py::handle x, py::handle out, GridArgument grid, GridArgument pool_grid,
               int threads) {
  Call call("gelu_pool");
  GeluPoolParams p;
  p.grid = call.grid(grid, "grid");
  p.pool_grid = pool_grid_of(call, p.grid, pool_grid);
  p.x = call.activation<3>(x, "x", {kAnyBatch, p.grid.size(), kAny});
  p.out = call.activation<3>(out, "out", {p.x.shape[0], p.pool_grid.size(), p.x.shape[2]});
  call.run(threads, p, cpu::gelu_pool, launches);
}

void gelu_pool_backward(py::handle d_out, py::handle x, py::handle d_x, GridArgument grid,
                        GridArgument pool_grid, int threads) {
  Call call("gelu_pool_backward");
  GeluPoolBackwardParams p;
  p.grid = call.grid(grid, "grid");
  p.pool_grid = pool_grid_of(call, p.grid, pool_grid);
  p.x = call.activation<3>(x, "x", {kAnyBatch, p.grid.size(), kAny});
  p.d_out = call.activation<3>(d_out, "d_out", {p.x.shape[0], p.pool_grid.size(), p.x.shape[2]});
  p.d_x = call.activation<3>(d_x, "d_x", {p.x.shape[0], p.x.shape[1], p.x.shape[2]});
  call.run(threads, p, cpu::gelu_pool_backward, launches);
}

}  // namespace

void define_gelu_pool(py::module_& m) {
  m.def("gelu_pool", &gelu_pool, py::arg("x"), py::arg("out"), py::arg("grid"),
        py::arg("pool_grid"), py::arg("threads") = 1);
  m.def("gelu_pool_backward", &gelu_pool_backward, py::arg("d_out"), py::arg("x"), py::arg("d_x"),
        py::arg("grid"), py::arg("pool_grid"), py::arg("threads") = 1);
}

}  // namespace transnext::bindings
