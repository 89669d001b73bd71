// The fused blocks: a block's two residual branches, the patch embedding, the norm of tokens, and the
// classifier's head.
#include "bindings/attention_arguments.h"
#include "bindings/operators.h"
#include "transnext/attention_branch.h"
#include "transnext/convolutional_glu.h"
#include "transnext/patch_embed.h"
#include "transnext/pooled_linear.h"
#include "transnext/token_norm.h"

namespace transnext::bindings {
namespace {

void attention_residual(py::handle x, py::handle norm_weight, py::handle norm_bias,
                        py::handle projections, py::handle projections_bias,
                        py::handle pool_norm_weight, py::handle pool_norm_bias,
                        py::handle pool_projections, py::handle scale, py::handle query_embedding,
                        py::handle local_bias, py::handle pool_bias, py::handle row_map,
                        py::handle col_map, py::handle col_weights, py::handle tokens,
                        py::handle token_bias, py::handle out_projection, py::handle out_bias,
                        py::handle out, GridArgument grid, GridArgument pool_grid,
                        index_t window_size, index_t heads, index_t width, double epsilon,
                        double pool_epsilon, const std::string& features, int threads) {
  Call call("attention_residual");
  AttentionBranchParams p;
  p.attention = read_attention_sizes(call, grid, pool_grid, window_size);
  if (heads < 1 || width < 1 || width % heads != 0)
    call.fail("width " + std::to_string(width) + " is no multiple of heads " +
              std::to_string(heads));
  const bool windowed = window_size > 0;
  if (!windowed && !pool_projections.is_none())
    call.fail("pool_projections must be None if window_size is 0");
  if (!windowed && p.attention.grid.size() != p.attention.pool_grid.size())
    call.fail("pool_grid must be grid if window_size is 0");
  const index_t parts = windowed ? 4 : 3;
  p.heads = heads;
  p.projections = call.packed(projections, "projections", call.product({parts, width}), width);
  p.projections_bias =
      call.optional_parameter<1>(projections_bias, "projections_bias", {parts * width});
  p.norm = call.norm(norm_weight, norm_bias, width, epsilon);
  if (windowed) {
    p.pool_norm = call.norm(pool_norm_weight, pool_norm_bias, width, pool_epsilon);
    p.pool_projections = call.packed(pool_projections, "pool_projections", 2 * width, width);
  }
  p.out_projection = call.packed(out_projection, "out_projection", width, width);
  p.out_bias = call.optional_parameter<1>(out_bias, "out_bias", {width});
  if (p.projections.dtype != p.out_projection.dtype ||
      (windowed && p.projections.dtype != p.pool_projections.dtype))
    call.fail("the packed weights differ in type");
  read_attention_parameters(call,
                            {scale, query_embedding, local_bias, pool_bias, row_map, col_map,
                             col_weights, tokens, token_bias},
                            heads, width / heads, p.attention);
  p.features = call.dtype(features, "features");
  if ((p.features == DType::kFloat64) != (p.projections.dtype == DType::kFloat64))
    call.fail("features " + features + " does not go with the packed weights");
  if (p.projections.dtype == kSplitFloat && p.features != DType::kFloat32)
    call.fail("features is " + features + ", needs float32 beside split weights");
  p.x = call.floating<3>(x, "x", {kAnyBatch, p.attention.grid.size(), width});
  p.out = call.floating<3>(out, "out", {p.x.shape[0], p.x.shape[1], width});
  if (p.x.dtype != p.out.dtype) call.fail("x and out differ in type");
  call.run(threads, p, cpu::attention_branch);
}

void conv_glu_residual(py::handle x, py::handle norm_weight, py::handle norm_bias,
                       py::handle value_weight, py::handle gate_weight, py::handle fc1_bias,
                       py::handle conv_weight, py::handle conv_bias, py::handle fc2_weight,
                       py::handle fc2_bias, py::handle out, GridArgument grid, index_t width,
                       index_t hidden, double epsilon, int threads) {
  Call call("conv_glu_residual");
  ConvolutionalGluParams p;
  if (width < 1 || hidden < 1) call.fail("width and hidden must be positive");
  p.grid = call.grid(grid, "grid");
  p.value_weight = call.packed(value_weight, "value_weight", hidden, width);
  p.gate_weight = call.packed(gate_weight, "gate_weight", hidden, width);
  p.fc2_weight = call.packed(fc2_weight, "fc2_weight", width, hidden);
  if (p.value_weight.dtype != p.gate_weight.dtype || p.value_weight.dtype != p.fc2_weight.dtype)
    call.fail("the packed weights differ in type");
  p.norm = call.norm(norm_weight, norm_bias, width, epsilon);
  p.fc1_bias = call.optional_parameter<1>(fc1_bias, "fc1_bias", {2 * hidden});
  p.conv_weight = call.parameter<4>(conv_weight, "conv_weight", {hidden, 1, 3, 3});
  p.conv_bias = call.optional_parameter<1>(conv_bias, "conv_bias", {hidden});
  p.fc2_bias = call.optional_parameter<1>(fc2_bias, "fc2_bias", {width});
  p.x = call.floating<3>(x, "x", {kAnyBatch, p.grid.size(), width});
  p.out = call.floating<3>(out, "out", {p.x.shape[0], p.x.shape[1], width});
  if (p.x.dtype != p.out.dtype) call.fail("x and out differ in type");
  if (p.x.data == p.out.data && p.x.shape[0] > 0) call.fail("out must not be x");
  call.run(threads, p, cpu::convolutional_glu);
}

void patch_embed(py::handle x, py::handle weight, py::handle bias, py::handle norm_weight,
                 py::handle norm_bias, py::handle out, GridArgument grid, index_t channels,
                 index_t columns, index_t kernel, index_t stride, bool channels_last,
                 double epsilon, int threads) {
  Call call("patch_embed");
  PatchEmbedParams p;
  if (channels < 1 || columns < 1 || kernel < 1 || stride < 1)
    call.fail("channels, columns, kernel and stride must be positive");
  p.grid = call.grid(grid, "grid");
  p.kernel = kernel;
  p.stride = stride;
  p.channels_last = channels_last;
  p.weight = call.packed(weight, "weight", columns, call.product({kernel, kernel, channels}));
  p.bias = call.optional_parameter<1>(bias, "bias", {columns});
  p.norm = call.norm(norm_weight, norm_bias, columns, epsilon);
  p.x = call.floating<4>(x, "x", {kAnyBatch, channels, kAny, kAny});
  const index_t padding = kernel / 2 * 2 - kernel;
  if (p.x.shape[2] + padding < 0 || p.x.shape[3] + padding < 0 ||
      p.grid.height != (p.x.shape[2] + padding) / stride + 1 ||
      p.grid.width != (p.x.shape[3] + padding) / stride + 1)
    call.fail("grid does not fit x, kernel and stride");
  p.out = call.floating<3>(out, "out", {p.x.shape[0], p.grid.size(), columns});
  call.run(threads, p, cpu::patch_embed);
}

void token_norm(py::handle x, py::handle norm_weight, py::handle norm_bias, py::handle out,
                double epsilon, int threads) {
  Call call("token_norm");
  TokenNormParams p;
  if (norm_weight.is_none()) call.fail("norm_weight is None, needs a tensor");
  p.x = call.activation<3>(x, "x", {kAnyBatch, kAny, kAny});
  p.norm = call.norm(norm_weight, norm_bias, p.x.shape[2], epsilon);
  p.out = call.activation<3>(out, "out", {p.x.shape[0], p.x.shape[1], p.x.shape[2]});
  call.run(threads, p, cpu::token_norm);
}

void pooled_linear(py::handle x, py::handle weight, py::handle bias, py::handle out, int threads) {
  Call call("pooled_linear");
  PooledLinearParams p;
  p.x = call.activation<3>(x, "x", {kAnyBatch, kAny, kAny});
  p.weight = call.activation<2>(weight, "weight", {kAny, p.x.shape[2]});
  const index_t classes = p.weight.shape[0];
  p.bias = call.optional_activation<1>(bias, "bias", {classes});
  const View<2> rows = call.activation<2>(out, "out", {p.x.shape[0], classes});
  p.out = {rows.data,
           rows.dtype,
           {rows.shape[0], 1, rows.shape[1]},
           {rows.stride[0], 0, rows.stride[1]}};
  call.run(threads, p, cpu::pooled_linear);
}

}  // namespace

void define_fused_blocks(py::module_& m) {
  m.def("attention_residual", &attention_residual);
  m.def("conv_glu_residual", &conv_glu_residual);
  m.def("patch_embed", &patch_embed);
  m.def("pooled_linear", &pooled_linear);
  m.def("token_norm", &token_norm);
}

}  // namespace transnext::bindings
