// Places, softmax and cells of a query's samples in deformable attention, with samples in the
// vector lanes (transnext/deformable_attention.h has the formulas).
#pragma once

#include "cpu/runtime/scratch.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/math.h"
#include "transnext/deformable_attention.h"

TRANSNEXT_BEGIN_LEVEL

constexpr int kCorners = 4;  // cells around a place

// Sizes, and what all queries of a call share, of the samples of some heads.
template <class C>
class Samples {
 public:
  Samples(const DeformableInputs& in, index_t first_head_of_call, index_t heads_of_call)
      : first_head(first_head_of_call),
        heads(heads_of_call),
        of_head(in.logits.shape[3]),
        levels(in.levels.count),
        points(of_head / levels),
        room(round_up(heads * of_head, kLanes<C>)),
        rows(room),
        columns(room),
        first(room) {
    for (index_t i = 0; i < room; ++i) {
      const Level& level = in.levels.of[i < heads * of_head ? i % of_head / points : 0];
      first[i] = level.first;
      rows[i] = static_cast<C>(level.rows);
      columns[i] = static_cast<C>(level.columns);
    }
  }

  const index_t first_head;
  const index_t heads;
  const index_t of_head;  // samples, on all levels
  const index_t levels;
  const index_t points;  // of a level
  const index_t room;    // all samples of a query, in whole vectors
  Scratch<C> rows;       // of the level of each sample
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

// A query's reference on a level: in cells, -0.5 being the edge, and what offsets count.
template <class C>
struct Origin {
  C left;
  C top;
  C across;
  C down;

  Origin(const DeformableInputs& in, index_t image, index_t query, index_t level) {
    const C* reference = static_cast<const C*>(in.reference.data) + image * in.reference.stride[0] +
                         query * in.reference.stride[1] + level * in.reference.stride[2];
    const index_t step = in.reference.stride[3];
    const C width = static_cast<C>(in.levels.of[level].columns);
    const C height = static_cast<C>(in.levels.of[level].rows);
    left = reference[0] * width - C(0.5);
    top = reference[step] * height - C(0.5);
    if (in.reference.shape[3] == 2) {
      across = down = C(1);
    } else {
      const C half = half_of_points(in);
      across = half * reference[2 * step] * width;
      down = half * reference[3 * step] * height;
    }
  }

  // The share of a box's sides that its offsets count.
  static C half_of_points(const DeformableInputs& in) {
    return C(0.5) / static_cast<C>(in.logits.shape[3] / in.levels.count);
  }
};

template <class T>
const T* at(const View<4>& view, index_t image, index_t query, index_t head) {
  return static_cast<const T*>(view.data) + image * view.stride[0] + query * view.stride[1] +
         head * view.stride[2];
}

// The offsets of a query's head, from the sample `first` on.
template <class T>
const T* offsets_at(const View<5>& view, index_t image, index_t query, index_t head,
                    index_t first) {
  return static_cast<const T*>(view.data) + image * view.stride[0] + query * view.stride[1] +
         head * view.stride[2] + first * view.stride[3];
}

template <class T, class C>
void find_places(const DeformableInputs& in, const Samples<C>& s, index_t image, index_t query,
                 Query<C>* q) {
  for (index_t level = 0; level < s.levels; ++level) {
    const index_t begin = level * s.points;
    const Origin<C> origin(in, image, query, level);
    for (index_t head = 0; head < s.heads; ++head) {
      const T* offset = offsets_at<T>(in.offsets, image, query, s.first_head + head, begin);
      C* x = q->x.data() + head * s.of_head + begin;
      C* y = q->y.data() + head * s.of_head + begin;
      for (index_t i = 0; i < s.points; ++i, offset += in.offsets.stride[3]) {
        x[i] = origin.left + origin.across * convert_to<C>(offset[0]);
        y[i] = origin.top + origin.down * convert_to<C>(offset[in.offsets.stride[4]]);
      }
    }
  }
}

template <class T, class C>
void take_softmax(const DeformableInputs& in, const Samples<C>& s, index_t image, index_t query,
                  Query<C>* q) {
  for (index_t head = 0; head < s.heads; ++head) {
    C* share = q->share.data() + head * s.of_head;
    load_row(at<T>(in.logits, image, query, s.first_head + head), in.logits.stride[3], s.of_head,
             share);
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
    has_second = (whole < count) & (coordinate >= C(-1));
  }
};

// The four cells around the places of some samples, and their shares of the samples' own.
template <class C>
struct Corners {
  Vector<C> across;  // from the first column to the second
  Vector<C> down;
  Vector<C> shares[kCorners];
  Mask<C> cells[kCorners];
  Mask<C> exist[kCorners];

  Corners(const Samples<C>& s, const Query<C>& q, index_t i) {
    const auto columns = load<Vector<C>>(s.columns.data() + i);
    const Between<C> x(load<Vector<C>>(q.x.data() + i), columns);
    const Between<C> y(load<Vector<C>>(q.y.data() + i), load<Vector<C>>(s.rows.data() + i));
    across = x.second;
    down = y.second;
    const auto share = load<Vector<C>>(q.share.data() + i);
    const Vector<C> below = share * down;
    const Vector<C> above = share - below;
    shares[1] = above * across;
    shares[0] = above - shares[1];
    shares[3] = below * across;
    shares[2] = below - shares[3];
    const Mask<C> width = __builtin_convertvector(columns, Mask<C>);
    cells[0] = load<Mask<C>>(s.first.data() + i) + y.cell * width + x.cell;
    cells[1] = cells[0] + 1;
    cells[2] = cells[0] + width;
    cells[3] = cells[2] + 1;
    exist[0] = y.has_first & x.has_first;
    exist[1] = y.has_first & x.has_second;
    exist[2] = y.has_second & x.has_first;
    exist[3] = y.has_second & x.has_second;
  }
};

TRANSNEXT_END_LEVEL
