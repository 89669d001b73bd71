// The table behind the pooled bias, prepared once per call for all tasks.
#pragma once

#include "cpu/bias/bias_resize.h"
#include "cpu/runtime/element.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "transnext/aggregated_attention.h"

TRANSNEXT_BEGIN_LEVEL

// A table for extrapolation maps the columns of neighbouring queries to neighbouring columns:
//
//   bias(head, (i, j), (a, b)) = table[head, row_map[i, a], first_column[b] + j].
//
// A run of queries in one row of the image then reads consecutive entries. Such a table is copied,
// with a vector of padding on both sides of each row, so that a whole vector can be read where only
// some of its lanes belong to the image row. BiasTaps reads tables of several taps where it can,
// BiasResize those of a resize; the rest are read entry by entry.
template <class C>
class BiasTable {
 public:
  BiasTable(const AggregatedAttentionInputs& in, int threads)
      : bias_(in.pool_bias),
        consecutive_(find_consecutive(in)),
        taps_(consecutive_ ? AggregatedAttentionInputs{} : in),
        resize_(in, taps_),
        rows_(bias_.table() ? bias_.values.shape[1] : 0),
        stride_(bias_.table() ? bias_.values.shape[2] + (consecutive_ ? 2 * kLanes<C> : 0) : 0),
        first_columns_(consecutive_ ? in.pool_grid.width : 0),
        values_(consecutive_ ? bias_.values.shape[0] * rows_ * stride_ : 0) {
    if (!consecutive_) return;
    for (index_t b = 0; b < first_columns_.size(); ++b)
      first_columns_[b] = element<const int>(bias_.col_map, 0, b, 0);
    parallel_for(bias_.values.shape[0], threads, [&](index_t head) {
      const index_t columns = bias_.values.shape[2];
      for (index_t row = 0; row < rows_; ++row) {
        const C* from = &element<const C>(bias_.values, head, row, 0);
        C* to = &values_[(head * rows_ + row) * stride_ + kLanes<C>];
        if (bias_.values.stride[2] == 1) {
          __builtin_memcpy(to, from, static_cast<unsigned long>(columns) * sizeof(C));
        } else {
          for (index_t column = 0; column < columns; ++column)
            to[column] = from[column * bias_.values.stride[2]];
        }
      }
    });
  }

  const PoolBias& bias() const { return bias_; }
  bool consecutive() const { return consecutive_; }
  const BiasTaps<C>& taps() const { return taps_; }
  const BiasResize<C>& resize() const { return resize_; }
  index_t rows() const { return rows_; }
  // Row stride of the copy, and of the gradient's table.
  index_t stride() const { return stride_; }
  index_t padding() const { return consecutive_ ? kLanes<C> : 0; }
  index_t first_column(index_t b) const { return first_columns_[b]; }
  const C* head(index_t head) const { return values_.data() + head * rows_ * stride_; }

 private:
  static bool find_consecutive(const AggregatedAttentionInputs& in) {
    const PoolBias& bias = in.pool_bias;
    if (!bias.table() || bias.col_weights.present() || bias.col_map.shape[2] != 1) return false;
    for (index_t b = 0; b < in.pool_grid.width; ++b) {
      const int first = element<const int>(bias.col_map, 0, b, 0);
      for (index_t j = 1; j < in.grid.width; ++j) {
        if (element<const int>(bias.col_map, j, b, 0) != first + j) return false;
      }
    }
    return true;
  }

  const PoolBias& bias_;
  bool consecutive_;
  BiasTaps<C> taps_;
  BiasResize<C> resize_;
  index_t rows_;
  index_t stride_;
  Scratch<index_t> first_columns_;  // [Wp]
  Scratch<C> values_;               // [h][R][stride]
};

TRANSNEXT_END_LEVEL
