// gelu_pool on the CPU.
//
//   out[b, p, c] = 1 / |bin p| * sum over n in bin p of GELU(x[b, n, c])
//   d_x[b, n, c] = GELU'(x[b, n, c]) * sum over bins p with n in them of d_out[b, p, c] / |bin p|
//
// Channels lie in the vector lanes. The forward reads x once (more where bins overlap); per element
// it does one GELU, about 40 flops, and moves sizeof(T) bytes: with vector code it is bound by
// arithmetic. Every output element is summed by one task in the order of its bin, so results do not
// depend on the threads.
#include "transnext/gelu_pool.h"

#include "cpu/convert.h"
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/scratch.h"
#include "cpu/storage.h"
#include "cpu/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

template <class T, class C>
void pool_row(const GeluPoolParams& p, index_t batch, index_t pool_row) {
  const index_t channels = p.x.shape[2];
  Scratch<C> sum(round_up(channels, kLanes<C>));
  const index_t row_begin = bin_begin(pool_row, p.pool_grid.height, p.grid.height);
  const index_t row_end = bin_end(pool_row, p.pool_grid.height, p.grid.height);
  for (index_t pool_column = 0; pool_column < p.pool_grid.width; ++pool_column) {
    const index_t column_begin = bin_begin(pool_column, p.pool_grid.width, p.grid.width);
    const index_t column_end = bin_end(pool_column, p.pool_grid.width, p.grid.width);
    sum.zero();
    for (index_t row = row_begin; row < row_end; ++row) {
      for (index_t column = column_begin; column < column_end; ++column) {
        const T* x = static_cast<const T*>(p.x.data) + batch * p.x.stride[0] +
                     (row * p.grid.width + column) * p.x.stride[1];
        for (index_t c = 0; c < channels; c += kLanes<C>) {
          const Vector<C> value = gelu(load_lanes<C>(x, p.x.stride[2], c, channels)).value;
          store(&sum[c], load<Vector<C>>(&sum[c]) + value);
        }
      }
    }
    const C cells = static_cast<C>((row_end - row_begin) * (column_end - column_begin));
    T* out = static_cast<T*>(p.out.data) + batch * p.out.stride[0] +
             (pool_row * p.pool_grid.width + pool_column) * p.out.stride[1];
    for (index_t c = 0; c < channels; c += kLanes<C>)
      store_lanes<C>(out, p.out.stride[2], c, channels, load<Vector<C>>(&sum[c]) / cells);
  }
}

template <class T, class C>
void pool_row_backward(const GeluPoolBackwardParams& p, index_t batch, index_t row) {
  const Grid grid = p.grid;
  const Grid pool = p.pool_grid;
  const index_t channels = p.x.shape[2];
  Scratch<C> sum(round_up(channels, kLanes<C>));
  for (index_t column = 0; column < grid.width; ++column) {
    sum.zero();
    for (index_t a = bin_begin(row, grid.height, pool.height);
         a < bin_end(row, grid.height, pool.height); ++a) {
      const index_t height =
          bin_end(a, pool.height, grid.height) - bin_begin(a, pool.height, grid.height);
      for (index_t b = bin_begin(column, grid.width, pool.width);
           b < bin_end(column, grid.width, pool.width); ++b) {
        const index_t width =
            bin_end(b, pool.width, grid.width) - bin_begin(b, pool.width, grid.width);
        const C share = C(1) / static_cast<C>(height * width);
        const T* d_out = static_cast<const T*>(p.d_out.data) + batch * p.d_out.stride[0] +
                         (a * pool.width + b) * p.d_out.stride[1];
        for (index_t c = 0; c < channels; c += kLanes<C>) {
          const Vector<C> gradient = load_lanes<C>(d_out, p.d_out.stride[2], c, channels);
          store(&sum[c], load<Vector<C>>(&sum[c]) + gradient * share);
        }
      }
    }
    const index_t token = row * grid.width + column;
    const T* x = static_cast<const T*>(p.x.data) + batch * p.x.stride[0] + token * p.x.stride[1];
    T* d_x = static_cast<T*>(p.d_x.data) + batch * p.d_x.stride[0] + token * p.d_x.stride[1];
    for (index_t c = 0; c < channels; c += kLanes<C>) {
      const Vector<C> slope = gelu(load_lanes<C>(x, p.x.stride[2], c, channels)).slope;
      store_lanes<C>(d_x, p.d_x.stride[2], c, channels, slope * load<Vector<C>>(&sum[c]));
    }
  }
}

}  // namespace

void gelu_pool(const GeluPoolParams& params, int threads) {
  with_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    const index_t rows = params.pool_grid.height;
    parallel_for(params.x.shape[0] * rows, threads, [&](index_t task) {
      pool_row<typename S::Type, typename S::Compute>(params, task / rows, task % rows);
    });
  });
}

void gelu_pool_backward(const GeluPoolBackwardParams& params, int threads) {
  with_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    const index_t rows = params.grid.height;
    parallel_for(params.x.shape[0] * rows, threads, [&](index_t task) {
      pool_row_backward<typename S::Type, typename S::Compute>(params, task / rows, task % rows);
    });
  });
}

TRANSNEXT_END_LEVEL
