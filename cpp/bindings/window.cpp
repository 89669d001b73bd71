#include "transnext/window.h"

#include <string>

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

// Reads the sizes and returns the window's number of cells, L.
template <class Params>
index_t read_sizes(const Call& call, GridArgument grid, index_t window_size, Params& p) {
  p.grid = call.grid(grid, "grid");
  p.window_size = window_size;
  if (window_size < 1 || window_size > kLargestWindow) {
    call.fail("window_size is " + std::to_string(window_size) + ", needs 1 to " +
              std::to_string(kLargestWindow));
  }
  return window_size * window_size;
}

// Reads a tensor of vectors [B, h, N, d], whose sizes the other tensors follow.
View<4> read_vectors(Call& call, py::handle tensor, const char* name, const Grid& grid) {
  return call.activation<4>(tensor, name, {kAnyBatch, kAny, grid.size(), kAny});
}

void window_qk(py::handle q, py::handle k, py::handle bias, py::handle attn, GridArgument grid,
               index_t window_size, int threads) {
  Call call("window_qk");
  WindowQkParams p;
  const index_t cells = read_sizes(call, grid, window_size, p);
  p.q = read_vectors(call, q, "q", p.grid);
  const index_t* shape = p.q.shape;
  p.k = call.activation<4>(k, "k", {shape[0], shape[1], shape[2], shape[3]});
  p.bias = call.optional_parameter<2>(bias, "bias", {shape[1], cells});
  p.attn = call.activation<4>(attn, "attn", {shape[0], shape[1], shape[2], cells});
  call.run(threads, p, cpu::window_qk, launches);
}

void window_qk_backward(py::handle d_attn, py::handle q, py::handle k, py::handle d_q,
                        py::handle d_k, py::handle d_bias, GridArgument grid, index_t window_size,
                        int threads) {
  Call call("window_qk_backward");
  WindowQkBackwardParams p;
  const index_t cells = read_sizes(call, grid, window_size, p);
  p.q = read_vectors(call, q, "q", p.grid);
  const index_t* shape = p.q.shape;
  p.k = call.activation<4>(k, "k", {shape[0], shape[1], shape[2], shape[3]});
  p.d_attn = call.activation<4>(d_attn, "d_attn", {shape[0], shape[1], shape[2], cells});
  p.d_q = call.optional_activation<4>(d_q, "d_q", {shape[0], shape[1], shape[2], shape[3]});
  p.d_k = call.optional_activation<4>(d_k, "d_k", {shape[0], shape[1], shape[2], shape[3]});
  p.d_bias = call.optional_parameter<2>(d_bias, "d_bias", {shape[1], cells});
  call.run(threads, p, cpu::window_qk_backward, launches);
}

void window_av(py::handle attn, py::handle v, py::handle out, GridArgument grid,
               index_t window_size, int threads) {
  Call call("window_av");
  WindowAvParams p;
  const index_t cells = read_sizes(call, grid, window_size, p);
  p.v = read_vectors(call, v, "v", p.grid);
  const index_t* shape = p.v.shape;
  p.attn = call.activation<4>(attn, "attn", {shape[0], shape[1], shape[2], cells});
  p.out = call.activation<4>(out, "out", {shape[0], shape[1], shape[2], shape[3]});
  call.run(threads, p, cpu::window_av, launches);
}

void window_av_backward(py::handle d_out, py::handle attn, py::handle v, py::handle d_attn,
                        py::handle d_v, GridArgument grid, index_t window_size, int threads) {
  Call call("window_av_backward");
  WindowAvBackwardParams p;
  const index_t cells = read_sizes(call, grid, window_size, p);
  p.v = read_vectors(call, v, "v", p.grid);
  const index_t* shape = p.v.shape;
  p.attn = call.activation<4>(attn, "attn", {shape[0], shape[1], shape[2], cells});
  p.d_out = call.activation<4>(d_out, "d_out", {shape[0], shape[1], shape[2], shape[3]});
  p.d_attn = call.optional_activation<4>(d_attn, "d_attn", {shape[0], shape[1], shape[2], cells});
  p.d_v = call.optional_activation<4>(d_v, "d_v", {shape[0], shape[1], shape[2], shape[3]});
  call.run(threads, p, cpu::window_av_backward, launches);
}

}  // namespace

void define_window(py::module_& m) {
  m.def("window_qk", &window_qk);
  m.def("window_qk_backward", &window_qk_backward);
  m.def("window_av", &window_av);
  m.def("window_av_backward", &window_av_backward);
}

}  // namespace transnext::bindings
