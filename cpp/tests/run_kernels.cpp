// Runs every CPU kernel of one instruction set, forward and backward, on the edges of its inputs:
// all storage types, 1x1 and 1xN grids, windows larger than the grid, pools that do not divide it,
// strided inputs, odd thread counts, several calling threads at once, a forked child. Meant for the
// sanitizers; also fails if a result is not finite, or differs in a single bit between two runs, or a
// Linear is not close to sums in double precision.
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <sys/wait.h>

#include "tests/case.h"
#include "tests/deformable.h"
#include "tests/level.h"
#include "tests/products.h"
#include "tests/sizes.h"

using namespace transnext;
using tests::Case;
using tests::Layout;
using tests::Sizes;

namespace {

void run_tokens(Case& c, const Sizes& s, int threads) {
  const index_t tokens = s.grid.size();
  const index_t hidden = s.heads * s.channels;
  ConvGluParams glu;
  glu.x = c.activation({s.batch, tokens, 2 * hidden});
  glu.weight = c.parameter({hidden, 1, 3, 3});
  glu.bias = c.parameter({hidden});
  glu.x_bias = c.parameter({2 * hidden});
  glu.out = c.result({s.batch, tokens, hidden});
  glu.grid = s.grid;
  level::conv_glu(glu, threads);
  ConvGluBackwardParams d_glu;
  d_glu.d_out = c.activation({s.batch, tokens, hidden});
  d_glu.x = glu.x;
  d_glu.weight = glu.weight;
  d_glu.bias = glu.bias;
  d_glu.x_bias = glu.x_bias;
  d_glu.d_x = c.result({s.batch, tokens, 2 * hidden});
  d_glu.d_weight = c.parameter_result({hidden, 1, 3, 3});
  d_glu.d_bias = c.parameter_result({hidden});
  d_glu.d_x_bias = c.parameter_result({2 * hidden});
  d_glu.grid = s.grid;
  level::conv_glu_backward(d_glu, threads);

  GeluPoolParams pool;
  pool.x = c.activation({s.batch, tokens, hidden});
  pool.out = c.result({s.batch, s.pool.size(), hidden});
  pool.grid = s.grid;
  pool.pool_grid = s.pool;
  level::gelu_pool(pool, threads);
  GeluPoolBackwardParams d_pool;
  d_pool.d_out = c.activation({s.batch, s.pool.size(), hidden});
  d_pool.x = pool.x;
  d_pool.d_x = c.result({s.batch, tokens, hidden});
  d_pool.grid = s.grid;
  d_pool.pool_grid = s.pool;
  level::gelu_pool_backward(d_pool, threads);
}

void run_norm(Case& c, const Sizes& s, int threads) {
  const index_t channels = 40;
  const index_t shape[] = {s.batch, s.grid.size(), channels};
  AddLayerNormParams p;
  p.branch = c.activation(shape);
  p.x = c.parameter(shape);
  p.weight = c.parameter({channels});
  p.bias = c.parameter({channels});
  p.branch_scale = c.parameter({s.batch});
  p.branch_bias = c.parameter({channels});
  p.normed = c.result(shape);
  p.total = c.parameter_result(shape);
  p.epsilon = 1e-6;
  level::add_layer_norm(p, threads);
  TokenNormParams norm;
  norm.x = p.branch;
  norm.norm = {p.weight, p.bias, p.epsilon};
  norm.out = c.result(shape);
  level::token_norm(norm, threads);
  PooledLinearParams head;
  head.x = p.branch;
  head.weight = c.activation({s.grid.width, channels});
  head.bias = c.activation({s.grid.width});
  head.out = c.result({s.batch, 1, s.grid.width});
  level::pooled_linear(head, threads);
  AddLayerNormBackwardParams d;
  d.d_normed = c.activation(shape);
  d.d_total = c.parameter(shape);
  d.total = p.x;
  d.weight = p.weight;
  d.branch_scale = p.branch_scale;
  d.d_branch = c.result(shape);
  d.d_x = c.parameter_result(shape);
  d.d_weight = c.parameter_result({channels});
  d.d_bias = c.parameter_result({channels});
  d.d_branch_bias = c.parameter_result({channels});
  d.epsilon = 1e-6;
  level::add_layer_norm_backward(d, threads);
}

void run_weight_gradient(Case& c, const Sizes& s, int threads) {
  const index_t tokens = s.batch * s.grid.size();
  const index_t columns = s.heads * s.channels;
  for (const index_t depth : {5, 40}) {
    WeightGradientParams p;
    p.d_out = c.activation({tokens, columns});
    p.x = c.activation({tokens, depth});
    p.d_weight = c.parameter_result({columns, depth});
    p.d_bias = c.parameter_result({columns});
    level::weight_gradient(p, threads);
  }
}

void run_windows(Case& c, const Sizes& s, int threads) {
  const index_t tokens = s.grid.size();
  const index_t cells = s.window * s.window;
  if (cells == 0) return;
  const index_t of_vectors[] = {s.batch, s.heads, tokens, s.channels};
  const index_t of_cells[] = {s.batch, s.heads, tokens, cells};
  WindowAvParams av;
  av.attn = c.activation(of_cells);
  av.v = c.activation(of_vectors);
  av.out = c.result(of_vectors);
  av.grid = s.grid;
  av.window_size = s.window;
  level::window_av(av, threads);
  WindowAvBackwardParams d_av;
  d_av.d_out = c.activation(of_vectors);
  d_av.attn = av.attn;
  d_av.v = av.v;
  d_av.d_attn = c.result(of_cells);
  d_av.d_v = c.result(of_vectors);
  d_av.grid = s.grid;
  d_av.window_size = s.window;
  level::window_av_backward(d_av, threads);

  WindowQkParams qk;
  qk.q = c.activation(of_vectors);
  qk.k = c.activation(of_vectors);
  qk.bias = c.parameter({s.heads, cells});
  Case logits(qk.q.dtype, Layout::kContiguous);  // infinite outside the image
  qk.attn = logits.result(of_cells);
  qk.grid = s.grid;
  qk.window_size = s.window;
  level::window_qk(qk, threads);
  WindowQkBackwardParams d_qk;
  d_qk.d_attn = c.activation(of_cells);
  d_qk.q = qk.q;
  d_qk.k = qk.k;
  d_qk.d_q = c.result(of_vectors);
  d_qk.d_k = c.result(of_vectors);
  d_qk.d_bias = c.parameter_result({s.heads, cells});
  d_qk.grid = s.grid;
  d_qk.window_size = s.window;
  level::window_qk_backward(d_qk, threads);
}

void run_table(Case& c, const Sizes& s, int threads) {
  PositionBiasTableParams p;
  const index_t rows = s.grid.height;
  const index_t columns = s.grid.width;
  const index_t hidden = 40;
  p.row_coords = c.parameter({rows});
  p.col_coords = c.parameter({columns});
  p.fc1_weight = c.parameter({hidden, 2});
  p.fc1_bias = c.parameter({hidden});
  p.fc2_weight = c.parameter({s.heads, hidden});
  p.fc2_bias = c.parameter({s.heads});
  p.table = c.parameter_result({s.heads, rows, columns});
  level::position_bias_table(p, threads);
  PositionBiasTableBackwardParams d;
  d.d_table = c.parameter({s.heads, rows, columns});
  d.row_coords = p.row_coords;
  d.col_coords = p.col_coords;
  d.fc1_weight = p.fc1_weight;
  d.fc1_bias = p.fc1_bias;
  d.fc2_weight = p.fc2_weight;
  d.d_fc1_weight = c.parameter_result({hidden, 2});
  d.d_fc1_bias = c.parameter_result({hidden});
  d.d_fc2_weight = c.parameter_result({s.heads, hidden});
  d.d_fc2_bias = c.parameter_result({s.heads});
  level::position_bias_table_backward(d, threads);
}

enum class Bias { kNone, kDense, kTable, kWeighted, kNeighbours };

void run_attention(Case& c, const Sizes& s, Bias bias, int threads) {
  const index_t tokens = s.grid.size();
  const index_t pooled = s.pool.size();
  const index_t cells = s.window * s.window;
  const bool local = cells > 0;
  const index_t of_tokens[] = {s.batch, tokens, s.heads, s.channels};
  const index_t of_pooled[] = {s.batch, pooled, s.heads, s.channels};
  AggregatedAttentionParams p;
  AggregatedAttentionInputs& in = p.in;
  in.q = c.activation(of_tokens);
  if (local) in.k = c.activation(of_tokens);
  if (local) in.v = c.activation(of_tokens);
  in.k_pool = c.activation(of_pooled);
  in.v_pool = c.activation(of_pooled);
  in.scale = c.parameter({s.heads});
  in.query_embedding = c.parameter({s.heads, s.channels});
  if (local) in.local_bias = c.parameter({s.heads, cells});
  if (local) in.tokens = c.parameter({s.heads, s.channels, cells});
  if (local) in.token_bias = c.parameter({s.heads, cells});
  if (bias == Bias::kDense) in.pool_bias.values = c.parameter({s.heads, tokens, pooled});
  if (bias == Bias::kTable || bias == Bias::kWeighted || bias == Bias::kNeighbours) {
    const index_t taps = bias == Bias::kTable ? 1 : 3;
    const index_t columns = bias == Bias::kNeighbours ? s.grid.width / 2 + 19 : 6;
    in.pool_bias.values = c.parameter({s.heads, 5, columns});
    in.pool_bias.row_map = c.indices({s.grid.height, s.pool.height}, 5);
    in.pool_bias.col_map = c.indices({s.grid.width, s.pool.width, taps}, 6);
    // Like an interpolated table: columns in order, those of a vector of queries within one vector,
    // taps further apart.
    for (index_t i = 0; bias == Bias::kNeighbours && i < s.grid.width * s.pool.width * taps; ++i)
      static_cast<int*>(in.pool_bias.col_map.data)[i] =
          static_cast<int>(i / taps / s.pool.width / 2 + 8 * (i % taps));
    if (taps > 1) in.pool_bias.col_weights = c.parameter({s.grid.width, s.pool.width, taps});
  }
  in.grid = s.grid;
  in.pool_grid = s.pool;
  in.window_size = s.window;
  p.out = c.result(of_tokens);
  p.log_sum_exp = c.parameter_result({s.batch, tokens, s.heads});
  level::aggregated_attention(p, threads);

  AggregatedAttentionBackwardParams d;
  d.d_out = c.activation(of_tokens);
  d.out = p.out;
  d.log_sum_exp = p.log_sum_exp;
  d.in = in;
  d.d_q = c.result(of_tokens);
  if (local) d.d_k = c.result(of_tokens);
  if (local) d.d_v = c.result(of_tokens);
  d.d_k_pool = c.result(of_pooled);
  d.d_v_pool = c.result(of_pooled);
  d.d_scale = c.parameter_result({s.heads});
  d.d_query_embedding = c.parameter_result({s.heads, s.channels});
  if (local) d.d_local_bias = c.parameter_result({s.heads, cells});
  if (local) d.d_tokens = c.parameter_result({s.heads, s.channels, cells});
  if (local) d.d_token_bias = c.parameter_result({s.heads, cells});
  if (in.pool_bias.values.present()) {
    const index_t(&shape)[3] = in.pool_bias.values.shape;
    d.d_pool_bias = c.parameter_result({shape[0], shape[1], shape[2]});
  }
  level::aggregated_attention_backward(d, threads);
}

// The fused blocks, composed of GEMMs and the kernels above.
void run_layers(Case& c, const Sizes& s, int threads) {
  const index_t tokens = s.grid.size();
  const index_t width = s.heads * s.channels;
  const index_t hidden = width + 5;
  ConvolutionalGluParams glu;
  glu.x = c.activation({s.batch, tokens, width});
  glu.norm = c.norm(width);
  glu.value_weight = c.packed(hidden, width, threads);
  glu.gate_weight = c.packed(hidden, width, threads);
  glu.fc1_bias = c.parameter({2 * hidden});
  glu.conv_weight = c.parameter({hidden, 1, 3, 3});
  glu.conv_bias = c.parameter({hidden});
  glu.fc2_weight = c.packed(width, hidden, threads);
  glu.fc2_bias = c.parameter({width});
  glu.grid = s.grid;
  // With these unscaled weights 16-bit results may overflow, correctly.
  Case large(glu.x.dtype, Layout::kContiguous);
  glu.out = large.result({s.batch, tokens, width});
  level::convolutional_glu(glu, threads);

  AttentionBranchParams branch;
  const bool windowed = s.window > 0;
  const index_t parts = windowed ? 4 : 3;
  branch.x = c.activation({s.batch, tokens, width});
  branch.norm = c.norm(width);
  branch.projections = c.packed(parts * width, width, threads);
  branch.projections_bias = c.parameter({parts * width});
  if (windowed) branch.pool_norm = c.norm(width);
  if (windowed) branch.pool_projections = c.packed(2 * width, width, threads);
  branch.attention.scale = c.parameter({s.heads});
  branch.attention.query_embedding = c.parameter({s.heads, s.channels});
  branch.attention.grid = s.grid;
  branch.attention.pool_grid = s.pool;
  branch.attention.window_size = s.window;
  branch.heads = s.heads;
  branch.out_projection = c.packed(width, width, threads);
  branch.out_bias = c.parameter({width});
  branch.features = branch.x.dtype;
  branch.out = large.result({s.batch, tokens, width});
  level::attention_branch(branch, threads);

  PatchEmbedParams embed;
  embed.x = c.activation({s.batch, s.heads, s.grid.height, s.grid.width});
  embed.channels_last = s.heads > 1;
  embed.kernel = 3;
  embed.stride = 2;
  embed.grid = {(s.grid.height - 1) / 2 + 1, (s.grid.width - 1) / 2 + 1};
  embed.weight = c.packed(s.channels, 9 * s.heads, threads);
  embed.bias = c.parameter({s.channels});
  embed.norm = c.norm(s.channels);
  embed.out = c.result({s.batch, embed.grid.size(), s.channels});
  level::patch_embed(embed, threads);
}

const Sizes kSizes[] = {
    {2, {5, 7}, {2, 3}, 2, 24, 3},    // a pool that does not divide the grid
    {1, {1, 1}, {1, 1}, 1, 8, 3},     //
    {1, {1, 9}, {1, 4}, 1, 24, 3},    //
    {1, {9, 1}, {4, 1}, 2, 9, 5},     // channels that do not fill whole vectors
    {2, {3, 3}, {3, 3}, 1, 24, 7},    // a window larger than the grid
    {2, {4, 6}, {2, 2}, 3, 32, 4},    // an even window; with three threads, each image in panels
    {9, {2, 3}, {1, 2}, 2, 24, 3},    // small images: with three threads four together, and one
    {1, {6, 5}, {6, 5}, 2, 128, 0},   // global attention
    {1, {19, 21}, {9, 8}, 1, 24, 3},  // several blocks and bands
    {1, {5, 70}, {1, 2}, 4, 128, 3},  // rows that are split into segments
    {0, {3, 3}, {1, 1}, 1, 8, 3},     // nothing
};

std::vector<char> run_all(DType dtype, Layout layout, int threads, bool* finite) {
  std::vector<char> all;
  *finite = true;
  int number = 0;
  for (const Sizes& sizes : kSizes) {
    Case c(dtype, layout);
    run_tokens(c, sizes, threads);
    run_norm(c, sizes, threads);
    run_weight_gradient(c, sizes, threads);
    run_windows(c, sizes, threads);
    run_table(c, sizes, threads);
    run_attention(c, sizes, static_cast<Bias>(++number % 5), threads);
    run_layers(c, sizes, threads);
    tests::run_deformable(c, sizes, threads);
    bool these_finite = true;
    const std::vector<char> results = c.results(&these_finite);
    all.insert(all.end(), results.begin(), results.end());
    *finite = *finite && these_finite;
  }
  return all;
}

int failures = 0;

void check(bool right, const std::string& what) {
  if (right) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

constexpr DType kTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64};

}  // namespace

// All cases, or (`few`) every type once, in alternating layouts.
int main(int count, char** arguments) {
  if (!tests::may_run()) return 1;
  tests::check_products(check);
  const bool few = count > 1 && std::strcmp(arguments[1], "few") == 0;
  constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kSliced, Layout::kTransposed};
  if (few) {
    int number = 0;
    for (const DType dtype : kTypes) {
      bool finite = false;
      run_all(dtype, kLayouts[number++ % 3], 3, &finite);
      check(finite, "a result that is not finite");
    }
    std::printf("%s\n", failures == 0 ? "all kernels ran" : "failed");
    return failures == 0 ? 0 : 1;
  }
  for (const DType dtype : kTypes) {
    const std::string type = "storage type " + std::to_string(static_cast<int>(dtype));
    for (const Layout layout : kLayouts) {
      for (const int threads : {1, 3}) {
        bool finite = false;
        run_all(dtype, layout, threads, &finite);
        check(finite, type + ": a result that is not finite");
      }
    }
  }
  bool finite = false;
  const std::vector<char> expected = run_all(tests::kShared, Layout::kContiguous, 3, &finite);

  // Several callers at once; each thread has its own tensors.
  std::vector<std::thread> callers;
  std::vector<char> same(4, 0);
  for (std::size_t i = 0; i < same.size(); ++i) {
    callers.emplace_back([&, i] {
      bool own_finite = false;
      same[i] = run_all(tests::kShared, Layout::kContiguous, 3, &own_finite) == expected ? 1 : 0;
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const char equal : same) check(equal == 1, "other bits from several callers at once");

  // A forked child has none of the pool's workers. (ThreadSanitizer does not support threads after
  // a fork of a process with threads.)
#if !defined(__SANITIZE_THREAD__)
  const pid_t child = fork();
  if (child == 0) {
    bool own_finite = false;
    _exit(run_all(tests::kShared, Layout::kContiguous, 3, &own_finite) == expected ? 0 : 1);
  }
  int status = 0;
  check(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
            WEXITSTATUS(status) == 0,
        "a forked child");
#endif
  std::printf("%s\n", failures == 0 ? "all kernels ran" : "failed");
  return failures == 0 ? 0 : 1;
}
