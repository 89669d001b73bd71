#include "transnext/aggregated_attention.h"

#include <string>

#include "bindings/attention_arguments.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

// Whether each head's matrix is row-major without gaps. The stride of a dimension of size 1 is
// irrelevant.
bool compact(const View<3>& view) {
  return (view.shape[2] <= 1 || view.stride[2] == 1) &&
         (view.shape[1] <= 1 || view.stride[1] == view.shape[2]);
}

}  // namespace

AggregatedAttentionInputs read_attention_sizes(const Call& call, GridArgument grid,
                                               GridArgument pool_grid, index_t window_size) {
  AggregatedAttentionInputs in;
  in.grid = call.grid(grid, "grid");
  in.pool_grid = call.grid(pool_grid, "pool_grid");
  if (window_size < 0 || window_size > kLargestWindow) {
    call.fail("window_size is " + std::to_string(window_size) + ", needs 0 to " +
              std::to_string(kLargestWindow));
  }
  in.window_size = window_size;
  return in;
}

void read_attention_parameters(Call& call, const AttentionParameters& from, index_t heads,
                               index_t channels, AggregatedAttentionInputs& in) {
  const index_t cells = in.window_size * in.window_size;
  in.scale = call.parameter<1>(from.scale, "scale", {heads});
  in.query_embedding =
      call.optional_parameter<2>(from.query_embedding, "query_embedding", {heads, channels});
  in.local_bias = call.optional_parameter<2>(from.local_bias, "local_bias", {heads, cells});
  in.tokens = call.optional_parameter<3>(from.tokens, "tokens", {heads, channels, cells});
  in.token_bias = call.optional_parameter<2>(from.token_bias, "token_bias", {heads, cells});

  PoolBias& bias = in.pool_bias;
  if (from.pool_bias.is_none()) {
    if (!from.row_map.is_none()) call.fail("row_map is given, but pool_bias is None");
    return;
  }
  if (from.row_map.is_none()) {
    bias.values = call.parameter<3>(from.pool_bias, "pool_bias",
                                    {heads, in.grid.size(), in.pool_grid.size()});
    return;
  }
  bias.values = call.parameter<3>(from.pool_bias, "pool_bias", {heads, kAny, kAny});
  if (!compact(bias.values)) call.fail("pool_bias must be contiguous if it is a table");
  bias.row_map = call.map<2>(from.row_map, "row_map", {in.grid.height, in.pool_grid.height},
                             bias.values.shape[1]);
  bias.col_map = call.map<3>(from.col_map, "col_map", {in.grid.width, in.pool_grid.width, kAny},
                             bias.values.shape[2]);
  const index_t taps = bias.col_map.shape[2];
  bias.col_weights = call.optional_parameter<3>(from.col_weights, "col_weights",
                                                {in.grid.width, in.pool_grid.width, taps});
  if (!bias.col_weights.present() && taps != 1)
    call.fail("col_weights is None, but col_map has several taps");
}

namespace {

struct Activations {
  py::handle q, k, v, k_pool, v_pool;
};

AggregatedAttentionInputs read_inputs(Call& call, const Activations& from,
                                      const AttentionParameters& parameters, GridArgument grid,
                                      GridArgument pool_grid, index_t window_size) {
  AggregatedAttentionInputs in = read_attention_sizes(call, grid, pool_grid, window_size);
  const index_t tokens = in.grid.size();
  const index_t pooled = in.pool_grid.size();
  in.q = call.activation<4>(from.q, "q", {kAnyBatch, tokens, kAny, kAny});
  const index_t batch = in.q.shape[0];
  const index_t heads = in.q.shape[2];
  const index_t channels = in.q.shape[3];
  if (window_size > 0) {
    in.k = call.activation<4>(from.k, "k", {batch, tokens, heads, channels});
    in.v = call.activation<4>(from.v, "v", {batch, tokens, heads, channels});
  } else if (!from.k.is_none() || !from.v.is_none()) {
    call.fail("k and v must be None if window_size is 0");
  }
  in.k_pool = call.activation<4>(from.k_pool, "k_pool", {batch, pooled, heads, channels});
  in.v_pool = call.activation<4>(from.v_pool, "v_pool", {batch, pooled, heads, channels});
  read_attention_parameters(call, parameters, heads, channels, in);
  return in;
}

void aggregated_attention(py::handle q, py::handle k, py::handle v, py::handle k_pool,
                          py::handle v_pool, py::handle scale, py::handle query_embedding,
                          py::handle local_bias, py::handle pool_bias, py::handle row_map,
                          py::handle col_map, py::handle col_weights, py::handle tokens,
                          py::handle token_bias, py::handle out, py::handle log_sum_exp,
                          GridArgument grid, GridArgument pool_grid, index_t window_size,
                          bool allow_tf32, int threads) {
  Call call("aggregated_attention");
  AggregatedAttentionParams p;
  p.in = read_inputs(call, {q, k, v, k_pool, v_pool},
                     {scale, query_embedding, local_bias, pool_bias, row_map, col_map, col_weights,
                      tokens, token_bias},
                     grid, pool_grid, window_size);
  const index_t* shape = p.in.q.shape;
  p.out = call.activation<4>(out, "out", {shape[0], shape[1], shape[2], shape[3]});
  p.log_sum_exp = call.parameter<3>(log_sum_exp, "log_sum_exp", {shape[0], shape[1], shape[2]});
  p.allow_tf32 = allow_tf32;
  call.run(threads, p, cpu::aggregated_attention, launches);
}

void aggregated_attention_backward(
    py::handle d_out, py::handle out, py::handle log_sum_exp, py::handle q, py::handle k,
    py::handle v, py::handle k_pool, py::handle v_pool, py::handle scale,
    py::handle query_embedding, py::handle local_bias, py::handle pool_bias, py::handle row_map,
    py::handle col_map, py::handle col_weights, py::handle tokens, py::handle token_bias,
    py::handle d_q, py::handle d_k, py::handle d_v, py::handle d_k_pool, py::handle d_v_pool,
    py::handle d_scale, py::handle d_query_embedding, py::handle d_local_bias,
    py::handle d_pool_bias, py::handle d_tokens, py::handle d_token_bias, GridArgument grid,
    GridArgument pool_grid, index_t window_size, bool deterministic, int threads) {
  Call call("aggregated_attention_backward");
  AggregatedAttentionBackwardParams p;
  p.in = read_inputs(call, {q, k, v, k_pool, v_pool},
                     {scale, query_embedding, local_bias, pool_bias, row_map, col_map, col_weights,
                      tokens, token_bias},
                     grid, pool_grid, window_size);
  const index_t batch = p.in.q.shape[0];
  const index_t length = p.in.q.shape[1];
  const index_t heads = p.in.q.shape[2];
  const index_t channels = p.in.q.shape[3];
  const index_t pooled = p.in.k_pool.shape[1];
  const index_t cells = window_size * window_size;
  p.d_out = call.activation<4>(d_out, "d_out", {batch, length, heads, channels});
  p.out = call.activation<4>(out, "out", {batch, length, heads, channels});
  p.log_sum_exp = call.parameter<3>(log_sum_exp, "log_sum_exp", {batch, length, heads});
  p.d_q = call.optional_activation<4>(d_q, "d_q", {batch, length, heads, channels});
  p.d_k = call.optional_activation<4>(d_k, "d_k", {batch, length, heads, channels});
  p.d_v = call.optional_activation<4>(d_v, "d_v", {batch, length, heads, channels});
  if (window_size == 0 && (p.d_k.present() || p.d_v.present())) {
    call.fail("d_k and d_v must be None if window_size is 0");
  }
  p.d_k_pool = call.optional_activation<4>(d_k_pool, "d_k_pool", {batch, pooled, heads, channels});
  p.d_v_pool = call.optional_activation<4>(d_v_pool, "d_v_pool", {batch, pooled, heads, channels});
  p.d_scale = call.optional_parameter<1>(d_scale, "d_scale", {heads});
  p.d_query_embedding =
      call.optional_parameter<2>(d_query_embedding, "d_query_embedding", {heads, channels});
  p.d_local_bias = call.optional_parameter<2>(d_local_bias, "d_local_bias", {heads, cells});
  p.d_tokens = call.optional_parameter<3>(d_tokens, "d_tokens", {heads, channels, cells});
  p.d_token_bias = call.optional_parameter<2>(d_token_bias, "d_token_bias", {heads, cells});
  if (!d_pool_bias.is_none()) {
    const View<3>& values = p.in.pool_bias.values;
    if (!values.present()) call.fail("d_pool_bias is wanted, but pool_bias is None");
    p.d_pool_bias = call.parameter<3>(d_pool_bias, "d_pool_bias",
                                      {values.shape[0], values.shape[1], values.shape[2]});
    if (!compact(p.d_pool_bias)) call.fail("d_pool_bias must be contiguous");
  }
  p.deterministic = deterministic;
  call.run(threads, p, cpu::aggregated_attention_backward, launches);
}

}  // namespace

void define_aggregated_attention(py::module_& m) {
  m.def("aggregated_attention", &aggregated_attention);
  m.def("aggregated_attention_backward", &aggregated_attention_backward);
}

}  // namespace transnext::bindings
