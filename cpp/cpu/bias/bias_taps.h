// Reads an interpolated bias table, a few weighted columns per query and pooled column
// (transnext/aggregated_attention.h), into the lanes of neighbouring queries.
//
// Neighbouring queries of an image row read neighbouring columns of the table, in order: where the
// columns of all lanes fit into one vector, that is one load and one permutation per tap, instead
// of a load per lane.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/runtime/scratch.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

// values[index[lane]] in every lane; only the low bits of an index are used.
template <class C>
inline Vector<C> permute(Vector<C> values, Mask<C> index) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    return reinterpret_cast<Vector<C>>(_mm512_maskz_permutexvar_ps(
        0xffff, reinterpret_cast<__m512i>(index), reinterpret_cast<__m512>(values)));
  } else {
    return reinterpret_cast<Vector<C>>(_mm512_maskz_permutexvar_pd(
        0xff, reinterpret_cast<__m512i>(index), reinterpret_cast<__m512d>(values)));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) {
    return reinterpret_cast<Vector<C>>(_mm256_permutevar8x32_ps(reinterpret_cast<__m256>(values),
                                                                reinterpret_cast<__m256i>(index)));
  }
#endif
#if !defined(__AVX512F__)
  Vector<C> result{};
  for (int lane = 0; lane < kLanes<C>; ++lane) result[lane] = values[index[lane] & (kLanes<C> - 1)];
  return result;
#endif
}

template <class C>
class BiasTaps {
 public:
  explicit BiasTaps(const AggregatedAttentionInputs& in)
      : width_(in.grid.width),
        taps_(in.pool_bias.table() ? in.pool_bias.col_map.shape[2] : 0),
        stride_(round_up(width_, n) + 2 * n),
        usable_(find_usable(in)),
        columns_(usable_ ? in.pool_grid.width * taps_ * stride_ : 0),
        weights_(usable_ ? columns_.size() : 0) {
    if (!usable_) return;
    const PoolBias& bias = in.pool_bias;
    for (index_t i = 0; i < columns_.size(); ++i) {
      columns_[i] = 0;
      weights_[i] = C(0);
    }
    for (index_t b = 0; b < in.pool_grid.width; ++b) {
      for (index_t t = 0; t < taps_; ++t) {
        const index_t at = (b * taps_ + t) * stride_ + n;
        for (index_t j = 0; j < width_; ++j) {
          columns_[at + j] = static_cast<MaskLane<C>>(mapped(bias, j, b, t));
          weights_[at + j] =
              bias.col_weights.present()
                  ? static_cast<const C*>(bias.col_weights.data)[j * bias.col_weights.stride[0] +
                                                                 b * bias.col_weights.stride[1] +
                                                                 t * bias.col_weights.stride[2]]
                  : C(1);
        }
      }
    }
    last_base_ = static_cast<MaskLane<C>>(bias.values.shape[2] - n);
  }

  // Whether the columns of every vector of queries fit into one vector.
  bool usable() const { return usable_; }

  index_t count() const { return taps_; }
  index_t column(index_t j, index_t b, index_t t) const {
    return columns_[(b * taps_ + t) * stride_ + n + j];
  }
  C weight(index_t j, index_t b, index_t t) const {
    return weights_[(b * taps_ + t) * stride_ + n + j];
  }
  // The last column at which a whole vector of columns can start.
  index_t last_base() const { return last_base_; }

  // The bias of pooled column b in a row of the table, for queries from j - start on in the lanes.
  // Only lanes from `start` on, whose first query is j, belong to the image row.
  Vector<C> operator()(const C* row, index_t b, index_t j, index_t start) const {
    Vector<C> sum{};
    for (index_t t = 0; t < taps_; ++t) {
      const index_t at = (b * taps_ + t) * stride_ + n + j;
      const MaskLane<C> first = columns_[at];
      const MaskLane<C> base = first < last_base_ ? first : last_base_;
      const Mask<C> index = load<Mask<C>>(&columns_[at - start]) - base;
      sum +=
          permute<C>(load<Vector<C>>(row + base), index) * load<Vector<C>>(&weights_[at - start]);
    }
    return sum;
  }

 private:
  static constexpr int n = kLanes<C>;

  static int mapped(const PoolBias& bias, index_t j, index_t b, index_t t) {
    return static_cast<const int*>(
        bias.col_map.data)[j * bias.col_map.stride[0] + b * bias.col_map.stride[1] +
                           t * bias.col_map.stride[2]];
  }

  static bool find_usable(const AggregatedAttentionInputs& in) {
    const PoolBias& bias = in.pool_bias;
    if (!bias.table() || bias.values.shape[2] < n) return false;
    if (bias.values.stride[2] != 1 && bias.values.shape[2] > 1) return false;
    for (index_t b = 0; b < in.pool_grid.width; ++b) {
      for (index_t t = 0; t < bias.col_map.shape[2]; ++t) {
        for (index_t j = 1; j < in.grid.width; ++j) {
          const int here = mapped(bias, j, b, t);
          const int back = mapped(bias, larger(0, j - n + 1), b, t);
          if (here < mapped(bias, j - 1, b, t) || here - back >= n) return false;
        }
      }
    }
    return true;
  }

  index_t width_;
  index_t taps_;
  index_t stride_;
  bool usable_;
  Scratch<MaskLane<C>> columns_;  // [Wp][taps][n + W + padding]
  Scratch<C> weights_;            // the same
  MaskLane<C> last_base_ = 0;
};

TRANSNEXT_END_LEVEL
