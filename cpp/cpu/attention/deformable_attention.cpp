// deformable_attention on the CPU: the formula of transnext/deformable_attention.h.
//
// Of one query all samples of all heads are taken together: their places, softmax and the shares of
// the four cells around each are computed with samples in the vector lanes, then each head adds its
// cells with channels in the lanes. Nothing but the result is written to memory. A cell of share 0
// is not read, so that places outside cost nothing and what is no number stays where it is looked
// at.
#include "transnext/deformable_attention.h"

#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/channels.h"
#include "cpu/simd/math.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kQueries = 32;  // of a task
constexpr int kCorners = 4;

// Sizes, and what all queries of a call share.
template <class C>
class Samples {
 public:
  explicit Samples(const DeformableAttentionParams& p)
      : heads(p.logits.shape[2]),
        of_head(p.logits.shape[3]),
        levels(p.shapes.shape[0]),
        room(round_up(heads * of_head, kLanes<C>)),
        rows(room),
        columns(room),
        first(room) {
    const int* shapes = static_cast<const int*>(p.shapes.data);
    const index_t points = of_head / levels;
    for (index_t i = 0; i < room; ++i) {
      const index_t level = i < heads * of_head ? i % of_head / points : 0;
      MaskLane<C> cells = 0;
      for (index_t before = 0; before < level; ++before) {
        const int* shape = shapes + before * p.shapes.stride[0];
        cells += static_cast<MaskLane<C>>(shape[0]) * shape[p.shapes.stride[1]];
      }
      const int* shape = shapes + level * p.shapes.stride[0];
      first[i] = cells;
      rows[i] = static_cast<C>(shape[0]);
      columns[i] = static_cast<C>(shape[p.shapes.stride[1]]);
    }
  }

  const index_t heads;
  const index_t of_head;  // samples, on all levels
  const index_t levels;
  const index_t room;  // all samples of a query, in whole vectors
  Scratch<C> rows;     // of the level of each sample
  Scratch<C> columns;
  Scratch<MaskLane<C>> first;  // cell of that level
};

// Of the samples of one query.
template <class C>
struct Query {
  explicit Query(const Samples<C>& s)
      : x(s.room),
        y(s.room),
        share(s.room),
        sum(s.heads),
        shares(kCorners * s.room),
        cells(kCorners * s.room) {
    x.zero();
    y.zero();
    share.zero();
  }

  Scratch<C> x;  // in cells, -0.5 being the edge; finite or not
  Scratch<C> y;
  Scratch<C> share;            // exp(logit - the head's largest)
  Scratch<C> sum;              // of the shares of each head
  Scratch<C> shares;           // of each sample's four cells, corner by corner
  Scratch<MaskLane<C>> cells;  // those cells
};

template <class T>
const T* at(const View<4>& view, index_t image, index_t query) {
  return static_cast<const T*>(view.data) + image * view.stride[0] + query * view.stride[1];
}

template <class T, class C>
void find_places(const DeformableAttentionParams& p, const Samples<C>& s, index_t image,
                 index_t query, Query<C>* q) {
  const T* offsets = static_cast<const T*>(p.offsets.data) + image * p.offsets.stride[0] +
                     query * p.offsets.stride[1];
  const C* reference = at<C>(p.reference, image, query);
  const index_t points = s.of_head / s.levels;
  const bool is_box = p.reference.shape[3] == 4;
  const index_t step = p.reference.stride[3];
  for (index_t level = 0; level < s.levels; ++level, reference += p.reference.stride[2]) {
    const index_t begin = level * points;
    const C width = s.columns[begin];
    const C height = s.rows[begin];
    const C left = reference[0] * width - C(0.5);
    const C top = reference[step] * height - C(0.5);
    const C half = C(0.5) / static_cast<C>(points);
    const C across = is_box ? half * reference[2 * step] * width : C(1);
    const C down = is_box ? half * reference[3 * step] * height : C(1);
    for (index_t head = 0; head < s.heads; ++head) {
      const T* offset = offsets + head * p.offsets.stride[2] + begin * p.offsets.stride[3];
      C* x = q->x.data() + head * s.of_head + begin;
      C* y = q->y.data() + head * s.of_head + begin;
      for (index_t i = 0; i < points; ++i, offset += p.offsets.stride[3]) {
        x[i] = left + across * convert_to<C>(offset[0]);
        y[i] = top + down * convert_to<C>(offset[p.offsets.stride[4]]);
      }
    }
  }
}

template <class T, class C>
void take_softmax(const DeformableAttentionParams& p, const Samples<C>& s, index_t image,
                  index_t query, Query<C>* q) {
  const T* logits = at<T>(p.logits, image, query);
  for (index_t head = 0; head < s.heads; ++head, logits += p.logits.stride[2]) {
    C* share = q->share.data() + head * s.of_head;
    load_row(logits, p.logits.stride[3], s.of_head, share);
    C largest = share[0];
    for (index_t i = 1; i < s.of_head; ++i) largest = share[i] > largest ? share[i] : largest;
    for (index_t i = 0; i < s.of_head; ++i) share[i] -= largest;
  }
  for (index_t i = 0; i < s.room; i += kLanes<C>)
    store(q->share.data() + i, exp_bounded<C>(load<Vector<C>>(q->share.data() + i)));
  for (index_t head = 0; head < s.heads; ++head) {
    C sum = 0;
    for (index_t i = 0; i < s.of_head; ++i) sum += q->share[head * s.of_head + i];
    q->sum[head] = sum;
  }
}

// The two cells that a coordinate lies between, along one axis of `size` cells: the second one's
// share, and which of them exist. Coordinates are moved to -1 .. size, where neither has a share;
// so are those that are no numbers.
template <class C>
struct Between {
  Vector<C> second;
  Mask<C> cell;  // the first
  Mask<C> has_first;
  Mask<C> has_second;

  Between(Vector<C> coordinate, Vector<C> size) {
    const Vector<C> from_border = minimum(maximum(coordinate, broadcast<C>(C(-1))), size) + C(1);
    const Mask<C> whole = __builtin_convertvector(from_border, Mask<C>);
    second = from_border - __builtin_convertvector(whole, Vector<C>);
    cell = whole - 1;
    const Mask<C> count = __builtin_convertvector(size, Mask<C>);
    has_first = (cell >= 0) & (cell < count);
    has_second = whole < count;
  }
};

template <class C>
void weigh_cells(const Samples<C>& s, Query<C>* q) {
  for (index_t i = 0; i < s.room; i += kLanes<C>) {
    const auto columns = load<Vector<C>>(s.columns.data() + i);
    const Between<C> x(load<Vector<C>>(q->x.data() + i), columns);
    const Between<C> y(load<Vector<C>>(q->y.data() + i), load<Vector<C>>(s.rows.data() + i));
    const auto share = load<Vector<C>>(q->share.data() + i);
    const Vector<C> below = share * y.second;
    const Vector<C> above = share - below;
    const Vector<C> below_right = below * x.second;
    const Vector<C> above_right = above * x.second;
    const Mask<C> width = __builtin_convertvector(columns, Mask<C>);
    const Mask<C> cell = load<Mask<C>>(s.first.data() + i) + y.cell * width + x.cell;
    const Vector<C> shares[kCorners] = {above - above_right, above_right, below - below_right,
                                        below_right};
    const Mask<C> cells[kCorners] = {cell, cell + 1, cell + width, cell + width + 1};
    const Mask<C> exist[kCorners] = {y.has_first & x.has_first, y.has_first & x.has_second,
                                     y.has_second & x.has_first, y.has_second & x.has_second};
    for (int corner = 0; corner < kCorners; ++corner) {
      store(q->shares.data() + corner * s.room + i, masked<C>(shares[corner], exist[corner]));
      store(q->cells.data() + corner * s.room + i, cells[corner]);
    }
  }
}

// Adds the cells of a head's samples, kCount vectors of channels from `channel` on.
template <int kCount, bool kDirect, class T, class C>
void add_cells(const DeformableAttentionParams& p, const Samples<C>& s, const Query<C>& q,
               const T* value, index_t head, index_t channel, T* out) {
  const index_t channels = p.value.shape[3];
  Vector<C> sum[kCorners][kCount] = {};  // four chains of additions, which overlap
  const index_t begin = head * s.of_head;
  for (index_t i = begin; i < begin + s.of_head; ++i) {
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      const C share = q.shares[corner * s.room + i];
      if (share == 0) continue;
      const T* cell = value + q.cells[corner * s.room + i] * p.value.stride[1];
      for (int v = 0; v < kCount; ++v)
        sum[corner][v] += share * load_channels<C, kDirect>(cell, p.value.stride[3],
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
  const index_t channels = p.value.shape[3];
  index_t c = 0;
  if (p.value.stride[3] == 1 && p.out.stride[3] == 1) {
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
  const Samples<C> samples(p);
  const index_t queries = p.logits.shape[1];
  const index_t blocks = (queries + kQueries - 1) / kQueries;
  parallel_for(p.value.shape[0] * blocks, threads, [&](index_t task) {
    const index_t image = task / blocks;
    const index_t begin = task % blocks * kQueries;
    const T* value = static_cast<const T*>(p.value.data) + image * p.value.stride[0];
    Query<C> q(samples);
    for (index_t query = begin; query < smaller(queries, begin + kQueries); ++query) {
      find_places<T>(p, samples, image, query, &q);
      take_softmax<T>(p, samples, image, query, &q);
      weigh_cells(samples, &q);
      T* out = static_cast<T*>(p.out.data) + image * p.out.stride[0] + query * p.out.stride[1];
      for (index_t head = 0; head < samples.heads; ++head)
        read_head<T>(p, samples, q, value + head * p.value.stride[2], head,
                     out + head * p.out.stride[2]);
    }
  });
}

}  // namespace

void deformable_attention(const DeformableAttentionParams& params, int threads) {
  with_kernel_storage(params.value.dtype, [&](auto storage) {
    using S = decltype(storage);
    attend<typename S::Type, typename S::Compute>(params, threads);
  });
}

TRANSNEXT_END_LEVEL
