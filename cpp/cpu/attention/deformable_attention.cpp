// deformable_attention on the CPU: the formula of transnext/deformable_attention.h.
//
// Of one query all samples of all heads are taken together: their places, softmax and the shares of
// the four cells around each are computed with samples in the vector lanes, then each head adds its
// cells with channels in the lanes. Nothing but the result is written to memory. A cell of share 0
// is not read, so that places outside cost nothing and what is no number stays where it is looked
// at.
#include "cpu/attention/deformable_samples.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/channels.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kQueries = 32;  // of a task

template <class C>
void weigh_cells(const Samples<C>& s, Query<C>* q) {
  for (index_t i = 0; i < s.room; i += kLanes<C>) {
    const Corners<C> around(s, *q, i);
    for (int corner = 0; corner < kCorners; ++corner) {
      store(q->shares.data() + corner * s.room + i,
            masked<C>(around.shares[corner], around.exist[corner]));
      store(q->cells.data() + corner * s.room + i, around.cells[corner]);
    }
  }
}

// Adds the cells of a head's samples, kCount vectors of channels from `channel` on.
template <int kCount, bool kDirect, class T, class C>
void add_cells(const DeformableAttentionParams& p, const Samples<C>& s, const Query<C>& q,
               const T* value, index_t head, index_t channel, T* out) {
  const View<4>& values = p.in.value;
  const index_t channels = values.shape[3];
  Vector<C> sum[kCorners][kCount] = {};  // four chains of additions, which overlap
  const index_t begin = head * s.of_head;
  for (index_t i = begin; i < begin + s.of_head; ++i) {
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      const C share = q.shares[corner * s.room + i];
      if (share == 0) continue;
      const T* cell = value + q.cells[corner * s.room + i] * values.stride[1];
      for (int v = 0; v < kCount; ++v)
        sum[corner][v] += share * load_channels<C, kDirect>(cell, values.stride[3],
                                                            channel + v * kLanes<C>, channels);
    }
  }
  const C inverse = C(1) / q.sum[head];
  for (int v = 0; v < kCount; ++v)
    store_channels<C, kDirect>(out, p.out.stride[3], channel + v * kLanes<C>, channels,
                               ((sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v])) * inverse);
}

template <class T, class C>
void read_head(const DeformableAttentionParams& p, const Samples<C>& s, const Query<C>& q,
               const T* value, index_t head, T* out) {
  const index_t channels = p.in.value.shape[3];
  index_t c = 0;
  if (p.in.value.stride[3] == 1 && p.out.stride[3] == 1) {
    for (; c + 4 * kLanes<C> <= channels; c += 4 * kLanes<C>)
      add_cells<4, true>(p, s, q, value, head, c, out);
    for (; c + 2 * kLanes<C> <= channels; c += 2 * kLanes<C>)
      add_cells<2, true>(p, s, q, value, head, c, out);
    for (; c + kLanes<C> <= channels; c += kLanes<C>)
      add_cells<1, true>(p, s, q, value, head, c, out);
  }
  for (; c < channels; c += kLanes<C>) add_cells<1, false>(p, s, q, value, head, c, out);
}

template <class T, class C>
void attend(const DeformableAttentionParams& p, int threads) {
  const DeformableInputs& in = p.in;
  const Samples<C> samples(in, 0, in.logits.shape[2]);
  const index_t queries = in.logits.shape[1];
  const index_t blocks = (queries + kQueries - 1) / kQueries;
  parallel_for(in.value.shape[0] * blocks, threads, [&](index_t task) {
    const index_t image = task / blocks;
    const index_t begin = task % blocks * kQueries;
    Query<C> q(samples);
    for (index_t query = begin; query < smaller(queries, begin + kQueries); ++query) {
      find_places<T>(in, samples, image, query, &q);
      take_softmax<T>(in, samples, image, query, &q);
      weigh_cells(samples, &q);
      T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0] + query * p.out.stride[1];
      for (index_t head = 0; head < samples.heads; ++head)
        read_head<T>(p, samples, q, at<T>(in.value, image, 0, head), head,
                     out + head * p.out.stride[2]);
    }
  });
}

}  // namespace

void deformable_attention(const DeformableAttentionParams& params, int threads) {
  with_kernel_storage(params.in.value.dtype, [&](auto storage) {
    using S = decltype(storage);
    attend<typename S::Type, typename S::Compute>(params, threads);
  });
}

TRANSNEXT_END_LEVEL
