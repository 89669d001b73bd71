// gelu_pool on the CPU.
//
//   out[b, p, c] = 1 / |bin p| * sum over n in bin p of GELU(x[b, n, c])
//   d_x[b, n, c] = GELU'(x[b, n, c]) * sum over bins p with n in them of d_out[b, p, c] / |bin p|
//
// Channels lie in the vector lanes. The forward reads x once (more where bins overlap); per element
// it does one GELU, about 40 flops, and moves sizeof(T) bytes: vectorised, it is bound by
// arithmetic. One task sums each output element in the order of its bin, so results do not depend
// on the threads.
#include "transnext/gelu_pool.h"

#include "cpu/runtime/kernels.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/channels.h"
#include "cpu/simd/math.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr int kVectors = 4;  // vectors of channels at a time: see gelu()

// Calls block(Count<vectors>, Flag<direct>, channel) for blocks of vectors that cover the channels.
template <class C, class Block>
void for_each_block(index_t channels, bool contiguous, Block&& block) {
  index_t c = 0;
  if (contiguous) {
    for (; c + kVectors * kLanes<C> <= channels; c += kVectors * kLanes<C>)
      block(Count<kVectors>{}, Flag<true>{}, c);
    for (; c + kLanes<C> <= channels; c += kLanes<C>) block(Count<1>{}, Flag<true>{}, c);
  }
  for (; c < channels; c += kLanes<C>) block(Count<1>{}, Flag<false>{}, c);
}

template <class T, class C>
void pool_row(const GeluPoolParams& p, index_t batch, index_t pool_row) {
  const index_t channels = p.x.shape[2];
  const index_t row_begin = bin_begin(pool_row, p.pool_grid.height, p.grid.height);
  const index_t row_end = bin_end(pool_row, p.pool_grid.height, p.grid.height);
  for (index_t pool_column = 0; pool_column < p.pool_grid.width; ++pool_column) {
    const index_t column_begin = bin_begin(pool_column, p.pool_grid.width, p.grid.width);
    const index_t column_end = bin_end(pool_column, p.pool_grid.width, p.grid.width);
    const C inverse_size =
        C(1) / static_cast<C>((row_end - row_begin) * (column_end - column_begin));
    const T* image = static_cast<const T*>(p.x.data) + batch * p.x.stride[0];
    T* out = static_cast<T*>(p.out.data) + batch * p.out.stride[0] +
             (pool_row * p.pool_grid.width + pool_column) * p.out.stride[1];
    const bool contiguous = p.x.stride[2] == 1 && p.out.stride[2] == 1;
    for_each_block<C>(channels, contiguous, [&](auto count, auto direct, index_t c) {
      constexpr int kCount = decltype(count)::kValue;
      constexpr bool kDirect = decltype(direct)::kValue;
      Vector<C> sum[kCount] = {};
      for (index_t row = row_begin; row < row_end; ++row) {
        for (index_t column = column_begin; column < column_end; ++column) {
          const T* x = image + (row * p.grid.width + column) * p.x.stride[1];
          Vector<C> value[kCount];
          for (int v = 0; v < kCount; ++v)
            value[v] = load_channels<C, kDirect>(x, p.x.stride[2], c + v * kLanes<C>, channels);
          gelu<C>(value);
          for (int v = 0; v < kCount; ++v) sum[v] += value[v];
        }
      }
      for (int v = 0; v < kCount; ++v)
        store_channels<C, kDirect>(out, p.out.stride[2], c + v * kLanes<C>, channels,
                                   sum[v] * inverse_size);
    });
  }
}

// The pooled cells that a row or column of tokens contributes to along one axis.
struct Bins {
  index_t begin;
  index_t end;

  Bins(index_t index, index_t size, index_t bins)
      : begin(bin_begin(index, size, bins)), end(bin_end(index, size, bins)) {}
};

index_t bin_size(index_t bin, index_t bins, index_t size) {
  return bin_end(bin, bins, size) - bin_begin(bin, bins, size);
}

template <class T, class C>
void pool_row_backward(const GeluPoolBackwardParams& p, index_t batch, index_t row) {
  const Grid grid = p.grid;
  const Grid pool = p.pool_grid;
  const index_t channels = p.x.shape[2];
  const Bins rows(row, grid.height, pool.height);
  const bool contiguous = p.x.stride[2] == 1 && p.d_out.stride[2] == 1 && p.d_x.stride[2] == 1;
  for (index_t column = 0; column < grid.width; ++column) {
    const Bins columns(column, grid.width, pool.width);
    const index_t token = row * grid.width + column;
    const T* x = static_cast<const T*>(p.x.data) + batch * p.x.stride[0] + token * p.x.stride[1];
    T* d_x = static_cast<T*>(p.d_x.data) + batch * p.d_x.stride[0] + token * p.d_x.stride[1];
    for_each_block<C>(channels, contiguous, [&](auto count, auto direct, index_t c) {
      constexpr int kCount = decltype(count)::kValue;
      constexpr bool kDirect = decltype(direct)::kValue;
      Vector<C> sum[kCount] = {};
      for (index_t a = rows.begin; a < rows.end; ++a) {
        const index_t height = bin_size(a, pool.height, grid.height);
        for (index_t b = columns.begin; b < columns.end; ++b) {
          const C inverse_size =
              C(1) / static_cast<C>(height * bin_size(b, pool.width, grid.width));
          const T* d_out = static_cast<const T*>(p.d_out.data) + batch * p.d_out.stride[0] +
                           (a * pool.width + b) * p.d_out.stride[1];
          for (int v = 0; v < kCount; ++v)
            sum[v] += inverse_size * load_channels<C, kDirect>(d_out, p.d_out.stride[2],
                                                               c + v * kLanes<C>, channels);
        }
      }
      Vector<C> input[kCount];
      Vector<C> value[kCount];
      Vector<C> slope[kCount];
      for (int v = 0; v < kCount; ++v)
        input[v] = load_channels<C, kDirect>(x, p.x.stride[2], c + v * kLanes<C>, channels);
      gelu<C>(input, value, slope);
      for (int v = 0; v < kCount; ++v)
        store_channels<C, kDirect>(d_x, p.d_x.stride[2], c + v * kLanes<C>, channels,
                                   slope[v] * sum[v]);
    });
  }
}

// Calls run(storage, image, row) for the rows of all images, one task per row.
template <class Run>
void for_each_row(const View<3>& x, index_t rows, int threads, const Run& run) {
  with_kernel_storage(x.dtype, [&](auto storage) {
    parallel_for(x.shape[0] * rows, threads,
                 [&](index_t task) { run(storage, task / rows, task % rows); });
  });
}

}  // namespace

void gelu_pool(const GeluPoolParams& params, int threads) {
  for_each_row(params.x, params.pool_grid.height, threads,
               [&](auto storage, index_t image, index_t row) {
                 using S = decltype(storage);
                 pool_row<typename S::Type, typename S::Compute>(params, image, row);
               });
}

void gelu_pool_backward(const GeluPoolBackwardParams& params, int threads) {
  for_each_row(params.x, params.grid.height, threads,
               [&](auto storage, index_t image, index_t row) {
                 using S = decltype(storage);
                 pool_row_backward<typename S::Type, typename S::Compute>(params, image, row);
               });
}

TRANSNEXT_END_LEVEL
