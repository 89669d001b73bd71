// token_norm on the CPU. A task takes some tokens, one after the other: each where it is to be, if that
// is a row of the type of arithmetic, else in a row of scratch.
#include "transnext/token_norm.h"

#include "cpu/gemm/gemm_rows.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/runtime/tokens.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kTasksPerThread = 3;  // keeps uneven cores busy until the end

template <class T, class C>
void normalise(const TokenNormParams& p, int threads) {
  const index_t channels = p.x.shape[2];
  const index_t rows = p.x.shape[0] * p.x.shape[1];
  const index_t block = (rows - 1) / (threads * kTasksPerThread) + 1;
  Scratch<C> norm_room(2 * channels);
  const Norm<C> norm = contiguous_norm<C>(p.norm, channels, norm_room);
  parallel_for((rows - 1) / block + 1, threads, [&](index_t task) {
    Scratch<C> room(channels);
    const index_t last = smaller(rows, (task + 1) * block);
    for (index_t row = task * block; row < last; ++row) {
      const T* from = token<const T>(p.x, row);
      T* to = token<T>(p.out, row);
      C* values = room.data();
      if constexpr (std::is_same_v<T, C>) {
        if (p.out.stride[2] == 1) values = to;
      }
      const void* const where = values;
      if (where != from) load_row(from, p.x.stride[2], channels, values);
      normalise_layer(norm, channels, values);
      if (where != to) store_row(values, p.out.stride[2], channels, to);
    }
  });
}

}  // namespace

void token_norm(const TokenNormParams& params, int threads) {
  if (params.x.shape[0] == 0) return;
  with_kernel_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    normalise<typename S::Type, typename S::Compute>(params, larger(threads, 1));
  });
}

TRANSNEXT_END_LEVEL
