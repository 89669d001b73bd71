// pooled_linear on the CPU: means of tokens first, then classes, a few at a time for all images. The
// weight is read once and as it is, since an image or two are not worth packing it.
#include "transnext/pooled_linear.h"

#include "cpu/runtime/element.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/ranges.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/convert.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kClasses = 4;         // whose sums do not wait for each other
constexpr index_t kTasksPerThread = 3;  // keeps uneven cores busy until the end

template <class T, class C>
void mean_of_tokens(const View<3>& x, index_t image, C* mean) {
  constexpr index_t n = kLanes<C>;
  const index_t tokens = x.shape[1];
  const index_t channels = x.shape[2];
  const T* const first = static_cast<const T*>(x.data) + image * x.stride[0];
  for (index_t c = 0; c < channels; c += n) {
    Vector<C> sum{};
    for (index_t i = 0; i < tokens; ++i)
      sum += load_lanes<C>(first + i * x.stride[1], x.stride[2], c, channels);
    store(mean + c, sum / static_cast<C>(tokens));
  }
}

// The products of a row with kClasses rows, all of `length` elements and `length` apart.
template <class C>
void multiply_classes(const C* row, const C* weights, index_t length, C* products) {
  Vector<C> sums[kClasses] = {};
  for (index_t c = 0; c < length; c += kLanes<C>) {
    const auto factor = load<Vector<C>>(row + c);
#pragma GCC unroll 4
    for (index_t k = 0; k < kClasses; ++k)
      sums[k] += factor * load<Vector<C>>(weights + k * length + c);
  }
  for (index_t k = 0; k < kClasses; ++k) products[k] = sum_lanes<C>(sums[k]);
}

template <class T, class C>
void classify(const PooledLinearParams& p, int threads) {
  const index_t images = p.x.shape[0];
  const index_t channels = p.x.shape[2];
  const index_t classes = p.weight.shape[0];
  const index_t length = round_up(channels, kLanes<C>);
  Scratch<C> means(images * length);  // with zeros behind the last channel
  parallel_for(images, threads, [&](index_t image) {
    mean_of_tokens<T>(p.x, image, means.data() + image * length);
  });

  const index_t groups = (classes - 1) / kClasses + 1;
  const index_t tasks = smaller(groups, threads * kTasksPerThread);
  parallel_for(tasks, threads, [&](index_t task) {
    Scratch<C> weights(kClasses * length);
    weights.zero();
    for (index_t group = range_begin(task, groups, tasks);
         group < range_begin(task + 1, groups, tasks); ++group) {
      const index_t first = group * kClasses;
      const index_t count = smaller(kClasses, classes - first);
      for (index_t k = 0; k < count; ++k)
        load_row(&element<const T>(p.weight, first + k, 0), p.weight.stride[1], channels,
                 weights.data() + k * length);
      for (index_t image = 0; image < images; ++image) {
        C products[kClasses];
        multiply_classes(means.data() + image * length, weights.data(), length, products);
        for (index_t k = 0; k < count; ++k) {
          C sum = products[k];
          if (p.bias.present()) sum += convert_to<C>(element<const T>(p.bias, first + k));
          convert_from(sum, &element<T>(p.out, image, 0, first + k));
        }
      }
    }
  });
}

}  // namespace

void pooled_linear(const PooledLinearParams& params, int threads) {
  if (params.x.shape[0] == 0) return;
  with_kernel_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    classify<typename S::Type, typename S::Compute>(params, larger(threads, 1));
  });
}

TRANSNEXT_END_LEVEL
