// weight_gradient on the CPU. The formulas are in transnext/weight_gradient.h.
//
// Both operands have their rows where a product has its depth, so both are laid out anew, some tokens
// at a time (gradient_operands.h). The left one costs most, so that is the tensor of fewer features:
// the product is d_weight or its transpose. A task owns a block of the result, whose sums stay in the
// second-level cache over all tokens beside both operands. Sums are float32 from the first token to
// the last, and no block is shared: results do not depend on the threads.
#include "transnext/weight_gradient.h"

#include "cpu/gemm/gradient_operands.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kTokens = 256;  // laid out at a time
constexpr index_t kMostRows = 320;
constexpr index_t kMostColumns = 384;
constexpr index_t kFewestColumns = 48;
constexpr index_t kTasksPerThread = 3;

// One side of the product in blocks of equal size, whole tiles.
struct Side {
  index_t extent;
  index_t block;
  index_t count;

  static Side make(index_t extent, index_t most) {
    const index_t parts = (extent - 1) / most + 1;
    const index_t block = round_up((extent - 1) / parts + 1, kGradientColumns);
    return {extent, block, (extent - 1) / block + 1};
  }
  index_t first(index_t number) const { return number * block; }
  index_t used(index_t number) const { return smaller(block, extent - number * block); }
};

template <class T>
TokenPart<T> token_part(const View<2>& tensor, index_t token, index_t feature, index_t features) {
  return {
      static_cast<const T*>(tensor.data) + token * tensor.stride[0] + feature * tensor.stride[1],
      tensor.stride[0], tensor.stride[1], features};
}

// Stores a block of the product where d_weight has it: rows of its features, or their transpose.
template <class C, class D>
void store_block(const C* sums, index_t stride, index_t rows, index_t columns, bool transposed,
                 index_t row_stride, index_t column_stride, D* to) {
  constexpr index_t n = kLanes<C>;
  if (!transposed) {
    for (index_t row = 0; row < rows; ++row, sums += stride, to += row_stride)
      store_row(sums, column_stride, columns, to);
    return;
  }
  for (index_t column = 0; column < columns; column += n) {
    for (index_t row = 0; row < rows; row += n) {
      Vector<C> square[n];
      for (index_t i = 0; i < n; ++i)
        square[i] = load<Vector<C>>(sums + smaller(row + i, rows - 1) * stride + column);
      transpose_square<C>(square);
      for (index_t i = 0; i < smaller(n, columns - column); ++i)
        store_lanes<C>(to + (column + i) * row_stride, column_stride, row, rows, square[i]);
    }
  }
}

template <class T, class C>
void run_block(const WeightGradientParams& p, bool transposed, const Side& rows,
               const Side& columns, index_t task) {
  const index_t row_block = task / columns.count;
  const index_t column_block = task % columns.count;
  const index_t first_row = rows.first(row_block);
  const index_t first_column = columns.first(column_block);
  const index_t height = rows.used(row_block);
  const index_t width = columns.used(column_block);
  const View<2>& left = transposed ? p.x : p.d_out;
  const View<2>& right = transposed ? p.d_out : p.x;
  const index_t tokens = p.x.shape[0];
  // The tasks at the other side's start sum the bias' gradient.
  const bool sums_bias = p.d_bias.present() && (transposed ? row_block : column_block) == 0;
  const index_t bias_size = transposed ? width : height;

  Scratch<C> bias(round_up(bias_size, kLanes<C>));
  bias.zero();
  C* const left_sum = sums_bias && !transposed ? bias.data() : nullptr;
  C* const right_sum = sums_bias && transposed ? bias.data() : nullptr;
  GradientOperands<T, C> operands(height, width, smaller(kTokens, tokens));
  // Once at least: the sum of no tokens is zero.
  for (index_t token = 0; token == 0 || token < tokens; token += kTokens) {
    const index_t count = smaller(kTokens, tokens - token);
    operands.load_left(token_part<T>(left, token, first_row, height), count, left_sum);
    operands.load_right(token_part<T>(right, token, first_column, width), count, right_sum);
    operands.add_products(count, token > 0);
  }

  const auto with_gradient = [&](DType dtype, const auto& store) {
    with_storage(dtype, [&](auto storage) {
      using S = decltype(storage);
      if constexpr (std::is_same_v<typename S::Compute, C>) store(typename S::Type{});
    });
  };
  with_gradient(p.d_weight.dtype, [&](auto element) {
    const index_t row_stride = p.d_weight.stride[0];
    const index_t column_stride = p.d_weight.stride[1];
    auto* to = static_cast<decltype(element)*>(p.d_weight.data) +
               (transposed ? first_column * row_stride + first_row * column_stride
                           : first_row * row_stride + first_column * column_stride);
    store_block(operands.sums(), operands.sum_stride(), height, width, transposed, row_stride,
                column_stride, to);
  });
  if (!sums_bias) return;
  with_gradient(p.d_bias.dtype, [&](auto element) {
    auto* to = static_cast<decltype(element)*>(p.d_bias.data) +
               (transposed ? first_column : first_row) * p.d_bias.stride[0];
    store_row(bias.data(), p.d_bias.stride[0], bias_size, to);
  });
}

}  // namespace

void weight_gradient(const WeightGradientParams& params, int threads) {
  const bool transposed = params.x.shape[1] < params.d_out.shape[1];
  const View<2>& left = transposed ? params.x : params.d_out;
  const View<2>& right = transposed ? params.d_out : params.x;
  const Side rows = Side::make(left.shape[1], kMostRows);
  Side columns = Side::make(right.shape[1], kMostColumns);
  while (threads > 1 && columns.block > kFewestColumns &&
         rows.count * columns.count < kTasksPerThread * threads)
    columns = Side::make(columns.extent, columns.block / 2);
  with_kernel_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    parallel_for(rows.count * columns.count, threads, [&](index_t task) {
      run_block<typename S::Type, typename S::Compute>(params, transposed, rows, columns, task);
    });
  });
}

TRANSNEXT_END_LEVEL
