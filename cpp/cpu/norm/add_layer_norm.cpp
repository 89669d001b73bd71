// add_layer_norm on the CPU. The formulas are in transnext/add_layer_norm.h.
//
// A task takes a block of tokens, one after the other, each in a row of scratch: the tokens are read
// once and the results written once, in 12 bytes per channel forward with 16-bit branches, so that
// it is bound by memory. Each block leaves partial sums of the parameters' gradients, which are
// added in the blocks' order: results do not depend on the threads.
#include "transnext/add_layer_norm.h"

#include "cpu/gemm/gemm_rows.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/runtime/tokens.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kBlocks = 64;  // at most: partial sums of the parameters' gradients
constexpr index_t kSums = 3;     // of d_weight, d_bias, d_branch_bias

template <class C>
C scale_of(const View<1>& scales, index_t image) {
  return scales.present() ? static_cast<const C*>(scales.data)[image * scales.stride[0]] : C(1);
}

// Calls run(block, first, last) for blocks of rows; returns how many there are.
template <class Run>
index_t for_each_block(index_t rows, int threads, const Run& run) {
  const index_t size = rows == 0 ? 1 : (rows - 1) / kBlocks + 1;
  const index_t blocks = (rows + size - 1) / size;
  parallel_for(blocks, threads,
               [&](index_t block) { run(block, block * size, smaller(rows, (block + 1) * size)); });
  return blocks;
}

template <class T, class C>
void forward(const AddLayerNormParams& p, int threads) {
  const index_t channels = p.branch.shape[2];
  Scratch<C> norm_room(2 * channels);
  Scratch<C> branch_bias(channels);
  branch_bias.zero();
  if (p.branch_bias.present())
    load_row(static_cast<const C*>(p.branch_bias.data), p.branch_bias.stride[0], channels,
             branch_bias.data());
  const Norm<C> norm = contiguous_norm<C>({p.weight, p.bias, p.epsilon}, channels, norm_room);
  for_each_block(
      p.branch.shape[0] * p.branch.shape[1], threads, [&](index_t, index_t first, index_t last) {
        Scratch<C> sum(channels);
        Scratch<C> added(channels);
        for (index_t row = first; row < last; ++row) {
          const C scale = scale_of<C>(p.branch_scale, row / p.branch.shape[1]);
          load_row(token<const C>(p.x, row), p.x.stride[2], channels, sum.data());
          load_row(token<const T>(p.branch, row), p.branch.stride[2], channels, added.data());
          for (index_t i = 0; i < channels; ++i) sum[i] += scale * (added[i] + branch_bias[i]);
          store_row(sum.data(), p.total.stride[2], channels, token<C>(p.total, row));
          normalise_layer(norm, channels, sum.data());
          store_row(sum.data(), p.normed.stride[2], channels, token<T>(p.normed, row));
        }
      });
}

// What a block needs beside its tensors: rows of scratch, and its partial sums.
template <class C>
struct Rows {
  C* hat;       // the sum, then normalised
  C* d_normed;  //
  C* gradient;  // of the sum
  C* d_weight;  // partial sums
  C* d_bias;
  C* d_branch_bias;
};

template <class T, class C>
void token_backward(const AddLayerNormBackwardParams& p, const Norm<C>& unit, const C* weight,
                    index_t row, const Rows<C>& rows) {
  const index_t channels = p.total.shape[2];
  const auto inverse_channels = C(1) / static_cast<C>(channels);
  load_row(token<const C>(p.total, row), p.total.stride[2], channels, rows.hat);
  load_row(token<const T>(p.d_normed, row), p.d_normed.stride[2], channels, rows.d_normed);
  const C inverse_deviation = normalise_layer(unit, channels, rows.hat);
  C sum = 0;
  C product = 0;
  for (index_t i = 0; i < channels; ++i) {
    const C gradient = rows.d_normed[i] * weight[i];
    rows.gradient[i] = gradient;
    rows.d_weight[i] += rows.d_normed[i] * rows.hat[i];
    rows.d_bias[i] += rows.d_normed[i];
    sum += gradient;
    product += gradient * rows.hat[i];
  }
  const C mean = sum * inverse_channels;
  const C slope = product * inverse_channels;
  for (index_t i = 0; i < channels; ++i)
    rows.gradient[i] = (rows.gradient[i] - mean - rows.hat[i] * slope) * inverse_deviation;
  if (p.d_total.present()) {
    load_row(token<const C>(p.d_total, row), p.d_total.stride[2], channels, rows.hat);
    for (index_t i = 0; i < channels; ++i) rows.gradient[i] += rows.hat[i];
  }
  if (p.d_x.present()) store_row(rows.gradient, p.d_x.stride[2], channels, token<C>(p.d_x, row));
  const C scale = scale_of<C>(p.branch_scale, row / p.total.shape[1]);
  for (index_t i = 0; i < channels; ++i) {
    rows.gradient[i] *= scale;
    rows.d_branch_bias[i] += rows.gradient[i];
  }
  if (p.d_branch.present())
    store_row(rows.gradient, p.d_branch.stride[2], channels, token<T>(p.d_branch, row));
}

// out = the sum of `count` rows of partial sums, `stride` apart.
template <class C>
void add_partials(const C* partials, index_t count, index_t stride, const View<1>& out) {
  if (!out.present()) return;
  for (index_t i = 0; i < out.shape[0]; ++i) {
    C sum = 0;
    for (index_t block = 0; block < count; ++block) sum += partials[block * stride + i];
    static_cast<C*>(out.data)[i * out.stride[0]] = sum;
  }
}

template <class T, class C>
void backward(const AddLayerNormBackwardParams& p, int threads) {
  const index_t channels = p.total.shape[2];
  Scratch<C> parameters(3 * channels);  // the norm's weight, and ones and zeros in its place
  for (index_t i = 0; i < channels; ++i) {
    parameters[i] = static_cast<const C*>(p.weight.data)[i * p.weight.stride[0]];
    parameters[channels + i] = C(1);
    parameters[2 * channels + i] = C(0);
  }
  const Norm<C> unit{&parameters[channels], &parameters[2 * channels], static_cast<C>(p.epsilon)};
  Scratch<C> partials(kBlocks * kSums * channels);
  partials.zero();
  const index_t blocks = for_each_block(
      p.total.shape[0] * p.total.shape[1], threads,
      [&](index_t block, index_t first, index_t last) {
        Scratch<C> room(3 * channels);
        C* sums = &partials[block * kSums * channels];
        const Rows<C> rows{room.data(), room.data() + channels, room.data() + 2 * channels,
                           sums,        sums + channels,        sums + 2 * channels};
        for (index_t row = first; row < last; ++row)
          token_backward<T, C>(p, unit, parameters.data(), row, rows);
      });
  const View<1>* parameters_of[kSums] = {&p.d_weight, &p.d_bias, &p.d_branch_bias};
  for (index_t i = 0; i < kSums; ++i)
    add_partials(partials.data() + i * channels, blocks, kSums * channels, *parameters_of[i]);
}

}  // namespace

void add_layer_norm(const AddLayerNormParams& params, int threads) {
  with_kernel_storage(params.branch.dtype, [&](auto storage) {
    using S = decltype(storage);
    forward<typename S::Type, typename S::Compute>(params, threads);
  });
}

void add_layer_norm_backward(const AddLayerNormBackwardParams& params, int threads) {
  with_kernel_storage(params.d_normed.dtype, [&](auto storage) {
    using S = decltype(storage);
    backward<typename S::Type, typename S::Compute>(params, threads);
  });
}

TRANSNEXT_END_LEVEL
