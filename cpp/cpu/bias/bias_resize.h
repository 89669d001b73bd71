// A bias table resized over pooled columns and over queries, which are apart in what interpolation
// makes (transnext/aggregated_attention.h):
//
//   col_map[j, b, 2 u + s]     = query column[j, u] + key column[b, s]
//   col_weights[j, b, 2 u + s] = query weight[j, u] key weight[b, s].
//
// A row of the table is first resized over queries, a vector for each key column, and these over
// pooled columns. Pooled columns side by side have key columns in common, so fewer vectors are
// permuted than BiasTaps permutes for every tap of every pooled column.
#pragma once

#include "cpu/bias/bias_taps.h"

TRANSNEXT_BEGIN_LEVEL

constexpr index_t kResizeTaps = 2;  // of a bilinear resize, on each axis

template <class C>
class BiasResize {
 public:
  // What a pooled column is between: numbers of key columns, which do not fall from one pooled column
  // to the next.
  struct Key {
    index_t source[kResizeTaps];
    C weight[kResizeTaps];
  };

  // Queries of one image row in the lanes, from `start` on, as a table's row is read for them.
  class Queries {
   public:
    Queries(const BiasResize& resize, index_t j, index_t start) : last_base_(resize.last_base_) {
      for (index_t u = 0; u < kResizeTaps; ++u) {
        const index_t at = u * resize.stride_ + n + j;
        first_[u] = resize.columns_[at];
        index_[u] = load<Mask<C>>(&resize.columns_[at - start]) - resize.columns_[at];
        weight_[u] = load<Vector<C>>(&resize.weights_[at - start]);
      }
    }

    // The row's values for the queries, a key column further on. Other lanes hold anything.
    Vector<C> operator()(const C* row, index_t key_column) const {
      Vector<C> sum{};
#pragma GCC unroll 2
      for (index_t u = 0; u < kResizeTaps; ++u) {
        const index_t at = first_[u] + key_column;
        // A whole vector ends with the row at the latest.
        const Vector<C> values =
            at <= last_base_ ? permute<C>(load<Vector<C>>(row + at), index_[u])
                             : permute<C>(load<Vector<C>>(row + last_base_),
                                          index_[u] + static_cast<MaskLane<C>>(at - last_base_));
        sum += values * weight_[u];
      }
      return sum;
    }

   private:
    index_t last_base_;
    index_t first_[kResizeTaps];
    Mask<C> index_[kResizeTaps];
    Vector<C> weight_[kResizeTaps];
  };

  BiasResize(const AggregatedAttentionInputs& in, const BiasTaps<C>& taps)
      : stride_(round_up(in.grid.width, n) + 2 * n),
        last_base_(taps.last_base()),
        usable_(find_usable(in.grid.width, in.pool_grid.width, taps)),
        columns_(usable_ ? kResizeTaps * stride_ : 0),
        weights_(columns_.size()),
        key_columns_(usable_ ? kResizeTaps * in.pool_grid.width : 0),
        keys_(usable_ ? in.pool_grid.width : 0) {
    if (!usable_) return;
    for (index_t i = 0; i < columns_.size(); ++i) {
      columns_[i] = 0;
      weights_[i] = C(0);
    }
    for (index_t u = 0; u < kResizeTaps; ++u) {
      for (index_t j = 0; j < in.grid.width; ++j) {
        columns_[u * stride_ + n + j] = static_cast<MaskLane<C>>(query_column(taps, j, u));
        weights_[u * stride_ + n + j] = query_weight(taps, j, u);
      }
    }
    for (index_t b = 0; b < keys_.size(); ++b) {
      for (index_t s = 0; s < kResizeTaps; ++s) {
        keys_[b].source[s] = source(key_column(taps, b, s));
        keys_[b].weight[s] = key_weight(taps, b, s);
      }
      const Key& before = keys_[larger(b - 1, 0)];
      usable_ = usable_ && before.source[0] <= keys_[b].source[0] &&
                before.source[1] <= keys_[b].source[1] && keys_[b].source[0] <= keys_[b].source[1];
    }
  }

  // Whether the taps are such a resize's, and BiasTaps can read the table.
  bool usable() const { return usable_; }
  const Key& key(index_t b) const { return keys_[b]; }
  index_t key_columns() const { return sources_; }

  // put(bias) of the pooled columns b .. b_end - 1. room: [key columns][lanes].
  template <class Put>
  void read(const Queries& queries, const C* row, index_t b, index_t b_end, C* room,
            Put&& put) const {
    const index_t end = keys_[b_end - 1].source[kResizeTaps - 1] + 1;
    for (index_t i = keys_[b].source[0]; i < end; ++i)
      store(room + i * n, queries(row, key_columns_[i]));
    for (; b < b_end; ++b) {
      const Key& key = keys_[b];
      put(load<Vector<C>>(room + key.source[0] * n) * key.weight[0] +
          load<Vector<C>>(room + key.source[1] * n) * key.weight[1]);
    }
  }

 private:
  static constexpr int n = kLanes<C>;

  // The number of a key column, a new one for a new column.
  index_t source(index_t column) {
    for (index_t i = 0; i < sources_; ++i) {
      if (key_columns_[i] == column) return i;
    }
    key_columns_[sources_] = column;
    return sources_++;
  }

  // Both weights of an axis sum to 1.
  static index_t query_column(const BiasTaps<C>& taps, index_t j, index_t u) {
    return taps.column(j, 0, kResizeTaps * u);
  }
  static index_t key_column(const BiasTaps<C>& taps, index_t b, index_t s) {
    return taps.column(0, b, s) - taps.column(0, 0, 0);
  }
  static C query_weight(const BiasTaps<C>& taps, index_t j, index_t u) {
    return taps.weight(j, 0, kResizeTaps * u) + taps.weight(j, 0, kResizeTaps * u + 1);
  }
  static C key_weight(const BiasTaps<C>& taps, index_t b, index_t s) {
    return taps.weight(0, b, s) + taps.weight(0, b, kResizeTaps + s);
  }

  static bool find_usable(index_t width, index_t pool_width, const BiasTaps<C>& taps) {
    if (!taps.usable() || taps.count() != kResizeTaps * kResizeTaps) return false;
    constexpr C kRounding = sizeof(C) == 8 ? C(1e-15) : C(5e-7);
    for (index_t b = 0; b < pool_width; ++b) {
      for (index_t t = 0; t < taps.count(); ++t) {
        const index_t u = t / kResizeTaps;
        const index_t s = t % kResizeTaps;
        const index_t column = key_column(taps, b, s);
        const C weight = key_weight(taps, b, s);
        for (index_t j = 0; j < width; ++j) {
          if (taps.column(j, b, t) != query_column(taps, j, u) + column) return false;
          const C error = taps.weight(j, b, t) - query_weight(taps, j, u) * weight;
          if (!(error <= kRounding && -error <= kRounding)) return false;
        }
      }
    }
    return true;
  }

  index_t stride_;
  index_t last_base_;
  bool usable_;
  Scratch<MaskLane<C>> columns_;  // [2][n + W + padding] of queries
  Scratch<C> weights_;            // the same
  index_t sources_ = 0;           // key columns
  Scratch<index_t> key_columns_;  // [key columns]
  Scratch<Key> keys_;             // [Wp]
};

TRANSNEXT_END_LEVEL
