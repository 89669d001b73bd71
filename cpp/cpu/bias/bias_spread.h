// The gradient of an interpolated bias table: the reverse of BiasTaps.
//
// Each query adds weighted gradients to a few columns of a table row, and neighbouring queries add
// to the same ones, so lanes cannot be scattered. Instead, for the queries of a run and one pooled
// column, the weights form a matrix [lanes][window of columns]. It is built once per block of
// queries and used for every pooled row: the gradients of a row of pooled keys times this matrix,
// one vector of columns at a time and always in lane order.
#pragma once

#include "cpu/bias/bias_taps.h"

TRANSNEXT_BEGIN_LEVEL

template <class C>
class BiasSpread {
 public:
  // block: queries of a block. Allocates nothing unless `wanted`.
  BiasSpread(const BiasTaps<C>& taps, index_t pool_width, index_t block, bool wanted)
      : taps_(taps),
        pool_width_(pool_width),
        block_(block),
        windows_(wanted ? block * pool_width : 0),
        bases_(windows_.size() * taps.count()),
        weights_(bases_.size() * n),
        window_of_(wanted ? taps.count() : 0) {}

  // Builds the matrices of run `run` of the block: queries j .. j + length - 1 of an image row, in
  // the block's lanes from `lane` on. Taps whose columns fit into one vector use the same window.
  void prepare(index_t run, index_t j, index_t lane, index_t length) {
    for (index_t b = 0; b < pool_width_; ++b) {
      index_t* bases = &bases_[(run * pool_width_ + b) * taps_.count()];
      index_t windows = 0;
      index_t window_end = 0;
      for (index_t t = 0; t < taps_.count(); ++t) {
        const index_t low = taps_.column(j, b, t);
        const index_t high = taps_.column(j + length - 1, b, t);
        const bool shared =
            windows > 0 && larger(window_end, high) - smaller(bases[windows - 1], low) < n;
        if (!shared) {
          bases[windows++] = low;
          window_end = high;
        } else {
          bases[windows - 1] = smaller(bases[windows - 1], low);
          window_end = larger(window_end, high);
        }
        window_of_[t] = windows - 1;
      }
      windows_[run * pool_width_ + b] = windows;
      for (index_t w = 0; w < windows; ++w) {
        bases[w] = smaller(bases[w], taps_.last_base());
        __builtin_memset(at(w, b, lane), 0, static_cast<unsigned long>(length * n) * sizeof(C));
      }
      for (index_t t = 0; t < taps_.count(); ++t) {
        const index_t w = window_of_[t];
        C* row = at(w, b, lane);
        for (index_t i = 0; i < length; ++i, row += n)
          row[taps_.column(j + i, b, t) - bases[w]] += taps_.weight(j + i, b, t);
      }
    }
  }

  // Adds the gradients of a run's lanes, for pooled column b, to a row of the table.
  void add(index_t run, index_t b, index_t lane, index_t length, const C* gradients, C* row) const {
    const index_t* bases = &bases_[(run * pool_width_ + b) * taps_.count()];
    for (index_t w = 0; w < windows_[run * pool_width_ + b]; ++w) {
      const C* weights = at(w, b, lane);
      Vector<C> even = load<Vector<C>>(row + bases[w]);
      Vector<C> odd{};
      index_t i = 0;
      for (; i + 2 <= length; i += 2) {
        even += gradients[i] * load<Vector<C>>(weights + i * n);
        odd += gradients[i + 1] * load<Vector<C>>(weights + (i + 1) * n);
      }
      if (i < length) even += gradients[i] * load<Vector<C>>(weights + i * n);
      store(row + bases[w], even + odd);
    }
  }

 private:
  static constexpr int n = kLanes<C>;

  index_t offset(index_t window, index_t b, index_t lane) const {
    return ((window * pool_width_ + b) * block_ + lane) * n;
  }
  C* at(index_t window, index_t b, index_t lane) { return &weights_[offset(window, b, lane)]; }
  const C* at(index_t window, index_t b, index_t lane) const {
    return &weights_[offset(window, b, lane)];
  }

  const BiasTaps<C>& taps_;
  index_t pool_width_;
  index_t block_;
  Scratch<index_t> windows_;    // [runs][Wp] in use
  Scratch<index_t> bases_;      // [runs][Wp][taps] first column of each window
  Scratch<C> weights_;          // [windows][Wp][block][lanes]
  Scratch<index_t> window_of_;  // [taps] for the current columns
};

TRANSNEXT_END_LEVEL
