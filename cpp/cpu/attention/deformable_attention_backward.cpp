// The gradients of deformable_attention on the CPU: the formulas of
// transnext/deformable_attention.h.
//
// A task is a head of an image, which alone adds to the gradients of that head's values: there are
// neither atomics nor copies of them, and sums have one order whatever the number of threads. It
// holds the head's values and their gradients as rows of whole vectors in the compute type, a few
// megabytes that stay in a cache as queries move over the map. Per query, the products D_c and the
// additions to d_value are made with channels in the vector lanes, all else with samples in them.
// Only cells that exist are read, and only those of a share other than 0 are added to.
#include "cpu/attention/deformable_samples.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/simd/transpose.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kQueries = 1024;  // of a task that adds up the heads' gradients of references

// Rows [cells][width] of one head, whole vectors each.
template <class C>
class Rows {
 public:
  Rows(const View<4>& like, bool needed)
      : cells_(like.shape[1]),
        channels_(like.shape[3]),
        width_(round_up(channels_, kLanes<C>)),
        data_(needed ? cells_ * width_ : 0),
        needed_(needed) {}

  template <class T>
  void read(const View<4>& view, index_t image, index_t head) {
    if (!needed_) return;
    if (width_ != channels_) data_.zero();
    for (index_t cell = 0; cell < cells_; ++cell)
      load_row(at<T>(view, image, cell, head), view.stride[3], channels_, row(cell));
  }
  template <class T>
  void write(const View<4>& view, index_t image, index_t head) {
    if (!needed_) return;
    for (index_t cell = 0; cell < cells_; ++cell)
      store_row(row(cell), view.stride[3], channels_,
                const_cast<T*>(at<T>(view, image, cell, head)));
  }
  void zero() {
    if (needed_) data_.zero();
  }
  C* row(index_t cell) { return data_.data() + cell * width_; }
  bool needed() const { return needed_; }

 private:
  const index_t cells_;
  const index_t channels_;
  const index_t width_;
  Scratch<C> data_;
  const bool needed_;
};

// The work of one head of an image.
template <class T, class C>
class Head {
 public:
  // `reference` [N, levels, 2 or 4]: its share of d_reference, or null.
  Head(const DeformableAttentionBackwardParams& p, index_t image, index_t head, C* reference)
      : p_(p),
        image_(image),
        head_(head),
        reference_(reference),
        samples_(p.in, head, 1),
        query_(samples_),
        across_(samples_.room),
        down_(samples_.room),
        d_x_(samples_.room),
        d_y_(samples_.room),
        d_share_(samples_.room),
        products_(kCorners * samples_.room * kLanes<C>),
        channels_(p.in.value.shape[3]),
        width_(round_up(channels_, kLanes<C>)),
        d_out_(width_),
        values_(p.in.value,
                p.d_offsets.present() || p.d_logits.present() || p.d_reference.present()),
        sums_(p.in.value, p.d_value.present()) {
    products_.zero();
    d_out_.zero();
  }

  void run() {
    values_.template read<T>(p_.in.value, image_, head_);
    sums_.zero();
    for (index_t query = 0; query < p_.in.logits.shape[1]; ++query) {
      find_places<T>(p_.in, samples_, image_, query, &query_);
      take_softmax<T>(p_.in, samples_, image_, query, &query_);
      weigh_cells();
      load_row(at<T>(p_.d_out, image_, query, head_), p_.d_out.stride[3], channels_, d_out_.data());
      index_t c = 0;
      for (; c + 4 * kLanes<C> <= width_; c += 4 * kLanes<C>) visit_cells<4>(c);
      for (; c + 2 * kLanes<C> <= width_; c += 2 * kLanes<C>) visit_cells<2>(c);
      for (; c < width_; c += kLanes<C>) visit_cells<1>(c);
      if (values_.needed()) {
        sum_products();
        write_gradients(query);
      }
    }
    sums_.template write<T>(p_.d_value, image_, head_);
  }

 private:
  // Shares become weights, and cells that do not exist -1.
  void weigh_cells() {
    const C inverse = C(1) / query_.sum[0];
    for (index_t i = 0; i < samples_.room; i += kLanes<C>) {
      store(query_.share.data() + i, load<Vector<C>>(query_.share.data() + i) * inverse);
      const Corners<C> around(samples_, query_, i);
      store(across_.data() + i, around.across);
      store(down_.data() + i, around.down);
      for (int corner = 0; corner < kCorners; ++corner) {
        store(query_.shares.data() + corner * samples_.room + i, around.shares[corner]);
        store(query_.cells.data() + corner * samples_.room + i,
              around.cells[corner] | ~around.exist[corner]);
      }
    }
  }

  // kCount vectors of channels from `channel` on: their part of each D_c, by lanes, and of d_value.
  template <int kCount>
  void visit_cells(index_t channel) {
    Vector<C> gradient[kCount];
    for (int v = 0; v < kCount; ++v)
      gradient[v] = load<Vector<C>>(d_out_.data() + channel + v * kLanes<C>);
    for (index_t i = 0; i < samples_.of_head; ++i) {
      for (int corner = 0; corner < kCorners; ++corner) {
        const index_t slot = corner * samples_.room + i;
        const index_t cell = query_.cells[slot];
        if (values_.needed()) {
          C* product = products_.data() + slot * kLanes<C>;
          auto sum = channel == 0 ? Vector<C>{} : load<Vector<C>>(product);
          if (cell >= 0) {
            const C* value = values_.row(cell) + channel;
            for (int v = 0; v < kCount; ++v)
              sum += gradient[v] * load<Vector<C>>(value + v * kLanes<C>);
          }
          store(product, sum);
        }
        const C share = query_.shares[slot];
        if (!sums_.needed() || cell < 0 || share == 0) continue;
        C* to = sums_.row(cell) + channel;
        for (int v = 0; v < kCount; ++v)
          store(to + v * kLanes<C>, load<Vector<C>>(to + v * kLanes<C>) + share * gradient[v]);
      }
    }
  }

  // From D_c to the gradients of weights and places.
  void sum_products() {
    for (index_t i = 0; i < samples_.room; i += kLanes<C>) {
      Vector<C> d[kCorners];
      for (int corner = 0; corner < kCorners; ++corner) {
        const C* product = products_.data() + (corner * samples_.room + i) * kLanes<C>;
        Vector<C> square[kLanes<C>];
        for (int lane = 0; lane < kLanes<C>; ++lane)
          square[lane] = load<Vector<C>>(product + lane * kLanes<C>);
        d[corner] = sum_rows<C>(square);
      }
      const auto across = load<Vector<C>>(across_.data() + i);
      const auto down = load<Vector<C>>(down_.data() + i);
      const auto share = load<Vector<C>>(query_.share.data() + i);
      const Vector<C> above = d[0] + across * (d[1] - d[0]);
      const Vector<C> below = d[2] + across * (d[3] - d[2]);
      store(d_share_.data() + i, above + down * (below - above));
      store(d_x_.data() + i, share * (d[1] - d[0] + down * (d[3] - d[2] - (d[1] - d[0]))));
      store(d_y_.data() + i, share * (below - above));
    }
  }

  void write_gradients(index_t query) {
    C total = 0;
    for (index_t i = 0; i < samples_.of_head; ++i) total += query_.share[i] * d_share_[i];
    for (index_t i = 0; i < samples_.room; i += kLanes<C>)
      store(d_share_.data() + i, load<Vector<C>>(query_.share.data() + i) *
                                     (load<Vector<C>>(d_share_.data() + i) - total));
    if (p_.d_logits.present())
      store_row(d_share_.data(), p_.d_logits.stride[3], samples_.of_head,
                const_cast<T*>(at<T>(p_.d_logits, image_, query, head_)));
    for (index_t level = 0; level < samples_.levels; ++level) {
      const index_t begin = level * samples_.points;
      if (p_.d_offsets.present()) write_offsets(query, level, begin);
      if (reference_ != nullptr) write_reference(query, level, begin);
    }
  }

  void write_offsets(index_t query, index_t level, index_t begin) {
    const Origin<C> origin(p_.in, image_, query, level);
    T* to = const_cast<T*>(offsets_at<T>(p_.d_offsets, image_, query, head_, begin));
    for (index_t i = begin; i < begin + samples_.points; ++i, to += p_.d_offsets.stride[3]) {
      convert_from(d_x_[i] * origin.across, to);
      convert_from(d_y_[i] * origin.down, to + p_.d_offsets.stride[4]);
    }
  }

  void write_reference(index_t query, index_t level, index_t begin) {
    const T* offset = offsets_at<T>(p_.in.offsets, image_, query, head_, begin);
    C sums[4] = {};
    for (index_t i = begin; i < begin + samples_.points; ++i, offset += p_.in.offsets.stride[3]) {
      sums[0] += d_x_[i];
      sums[1] += d_y_[i];
      sums[2] += d_x_[i] * convert_to<C>(offset[0]);
      sums[3] += d_y_[i] * convert_to<C>(offset[p_.in.offsets.stride[4]]);
    }
    const index_t numbers = p_.in.reference.shape[3];
    C* to = reference_ + (query * samples_.levels + level) * numbers;
    const C half = Origin<C>::half_of_points(p_.in);
    const C sides[] = {static_cast<C>(p_.in.levels.of[level].columns),
                       static_cast<C>(p_.in.levels.of[level].rows)};
    for (index_t k = 0; k < numbers; ++k) to[k] = sums[k] * sides[k % 2] * (k < 2 ? C(1) : half);
  }

  const DeformableAttentionBackwardParams& p_;
  const index_t image_;
  const index_t head_;
  C* const reference_;
  const Samples<C> samples_;
  Query<C> query_;
  Scratch<C> across_;  // where a place lies between its cells
  Scratch<C> down_;
  Scratch<C> d_x_;  // of places, in cells
  Scratch<C> d_y_;
  Scratch<C> d_share_;   // of weights, then of logits
  Scratch<C> products_;  // d_out * value of each cell, before the sum over lanes
  const index_t channels_;
  const index_t width_;
  Scratch<C> d_out_;
  Rows<C> values_;
  Rows<C> sums_;
};

// d_reference, from every head's share [B, h, N, levels, numbers].
template <class C>
void add_heads(const DeformableAttentionBackwardParams& p, const C* shares, int threads) {
  const View<4>& to = p.d_reference;
  const index_t heads = p.in.logits.shape[2];
  const index_t queries = to.shape[1];
  const index_t numbers = to.shape[2] * to.shape[3];  // of a query
  const index_t blocks = (queries + kQueries - 1) / kQueries;
  parallel_for(to.shape[0] * blocks, threads, [&](index_t task) {
    const index_t image = task / blocks;
    const index_t begin = task % blocks * kQueries;
    for (index_t query = begin; query < smaller(queries, begin + kQueries); ++query) {
      for (index_t k = 0; k < numbers; ++k) {
        C sum = 0;
        for (index_t head = 0; head < heads; ++head)
          sum += shares[((image * heads + head) * queries + query) * numbers + k];
        static_cast<C*>(to.data)[image * to.stride[0] + query * to.stride[1] +
                                 k / to.shape[3] * to.stride[2] + k % to.shape[3] * to.stride[3]] =
            sum;
      }
    }
  });
}

template <class T, class C>
void differentiate(const DeformableAttentionBackwardParams& p, int threads) {
  const index_t images = p.in.value.shape[0];
  const index_t heads = p.in.value.shape[2];
  const index_t of_head = p.in.logits.shape[1] * p.in.levels.count * p.in.reference.shape[3];
  Scratch<C> reference(p.d_reference.present() ? images * heads * of_head : 0);
  parallel_for(images * heads, threads, [&](index_t task) {
    C* own = p.d_reference.present() ? reference.data() + task * of_head : nullptr;
    Head<T, C>(p, task / heads, task % heads, own).run();
  });
  if (p.d_reference.present()) add_heads(p, reference.data(), threads);
}

}  // namespace

void deformable_attention_backward(const DeformableAttentionBackwardParams& params, int threads) {
  with_kernel_storage(params.in.value.dtype, [&](auto storage) {
    using S = decltype(storage);
    differentiate<typename S::Type, typename S::Compute>(params, threads);
  });
}

TRANSNEXT_END_LEVEL
