// The bias of the pooled logits: read from a dense tensor or from a table with two axis maps
// (transnext/aggregated_attention.h) into the lanes of a block of queries, and its gradient.
#pragma once

#include "cpu/attention/tokens.h"
#include "cpu/bias/bias_spread.h"
#include "cpu/bias/bias_table.h"

TRANSNEXT_BEGIN_LEVEL

// The pooled bias of one head for a block of queries, in the lanes.
template <class C>
class BlockBias {
 public:
  // gradient: whether add_gradient will be called.
  BlockBias(const BiasTable<C>& table, const Grid& grid, const Grid& pool_grid, bool gradient)
      : table_(table),
        bias_(table.bias()),
        grid_(grid),
        pool_grid_(pool_grid),
        taps_(bias_.table() ? bias_.col_map.shape[2] : 0),
        runs_(in_runs() ? kBlock<C> : 0),
        rows_(bias_.table() ? pool_grid.height * kBlock<C> : 0),
        run_rows_(table.taps().usable() ? pool_grid.height * kBlock<C> : 0),
        columns_(table.consecutive() ? 0 : pool_grid.width * taps_ * kBlock<C>),
        weights_(bias_.col_weights.present() ? columns_.size() : 0),
        resized_(table.resize().key_columns() * kLanes<C>),
        spread_(table.taps(), pool_grid.width, kBlock<C>, gradient && table.taps().usable()) {}

  bool present() const { return bias_.values.present(); }

  // Whether read does more for a vector than to load it.
  bool takes_long() const { return present() && !table_.consecutive(); }

  // Prepares for the queries first .. first + count - 1.
  void start(index_t head, index_t first, index_t count) {
    head_ = head;
    first_ = first;
    count_ = count;
    entries_found_ = false;
    spread_prepared_ = false;
    if (in_runs()) find_runs();
  }

  // logits[key - first_key][lane] = bias, for `keys` pooled keys from first_key on; present() only.
  void fill(C* logits, index_t first_key, index_t keys) {
    if (bias_.dense()) return fill_dense(logits, first_key, keys);
    if (in_runs()) {
      for (int v = 0; v < 2; ++v) {
        C* const room = logits + v * n;
        read_runs(v, first_key, keys, room, [to = room](Vector<C> bias) mutable {
          store(to, bias);
          to += kBlock<C>;
        });
      }
      return;
    }
    find_entries();
    const C* table = &element<const C>(bias_.values, head_, 0, 0);
    for (index_t i = 0; i < keys * kBlock<C>; ++i) logits[i] = C(0);
    for_each_entry(first_key, keys, [&](index_t at, index_t row, index_t column, C weight) {
      logits[at] += weight * table[row * bias_.values.stride[1] + column * bias_.values.stride[2]];
    });
  }

  // put(bias) for the queries of vector v, 0 and then 1, and every key, in the order of the keys. What
  // is not read key by key is put together in `room` first, [keys][block]. Returns put: by value, so
  // that what it keeps is in registers.
  template <class Put>
  Put read(int v, index_t first_key, index_t keys, C* room, Put put) {
    if (in_runs()) return read_runs(v, first_key, keys, room + v * n, put);
    if (v == 0) fill(room, first_key, keys);
    for (index_t key = 0; key < keys; ++key) put(load<Vector<C>>(room + key * kBlock<C> + v * n));
    return put;
  }

  // d_bias += the gradient of the same logits: [N][P] for a dense bias, [R][table.stride()] for a
  // table.
  void add_gradient(const C* d_logits, index_t first_key, index_t keys, C* d_bias) {
    if (bias_.dense()) return add_dense_gradient(d_logits, first_key, keys, d_bias);
    if (table_.consecutive()) return add_run_gradients(d_logits, first_key, keys, d_bias);
    if (table_.taps().usable()) return add_tap_gradients(d_logits, first_key, keys, d_bias);
    find_entries();
    for_each_entry(first_key, keys, [&](index_t at, index_t row, index_t column, C weight) {
      d_bias[row * table_.stride() + column] += weight * d_logits[at];
    });
  }

 private:
  static constexpr int n = kLanes<C>;

  // Whether vectors of neighbouring queries are read from a table.
  bool in_runs() const { return table_.consecutive() || table_.taps().usable(); }

  // Lanes of one vector whose queries lie in one row of the image.
  struct Run {
    int vector;
    Mask<C> lanes;
    index_t row;     // of the image
    index_t column;  // of the first such lane, in the image
    index_t start;   // that lane
    index_t length;
    const index_t*
        rows;  // [Hp] offset of the vector's first lane in the table, before a pooled column's own offset
  };

  void find_runs() {
    const Mask<C> numbers = lane_numbers<C>();
    runs_in_block_ = 0;
    index_t i = first_ / grid_.width;
    index_t j = first_ % grid_.width;
    for (index_t lane = 0; lane < count_;) {
      const index_t start = lane % n;
      const index_t length = smaller(smaller(grid_.width - j, n - start), count_ - lane);
      Run& run = runs_[runs_in_block_];
      index_t* rows =
          &(table_.consecutive() ? rows_ : run_rows_)[runs_in_block_ * pool_grid_.height];
      run.vector = static_cast<int>(lane / n);
      run.lanes = (numbers >= static_cast<MaskLane<C>>(start)) &
                  (numbers < static_cast<MaskLane<C>>(start + length));
      run.row = i;
      run.column = j;
      run.start = start;
      run.length = length;
      for (index_t a = 0; a < pool_grid_.height; ++a) {
        const index_t row = element<const int>(bias_.row_map, i, a);
        rows[a] = table_.consecutive() ? row * table_.stride() + table_.padding() + j - start
                                       : row * bias_.values.stride[1];
      }
      run.rows = rows;
      ++runs_in_block_;
      lane += length;
      j += length;
      if (j == grid_.width) {
        j = 0;
        ++i;
      }
    }
  }

  // As read, with room for vector v from its first lane on.
  template <class Put>
  Put read_runs(int v, index_t first_key, index_t keys, C* room, Put put) {
    const Run* first = &runs_[0];
    const Run* const all = first + runs_in_block_;
    while (first < all && first->vector < v) ++first;
    const Run* end = first;
    index_t lanes = 0;
    for (; end < all && end->vector == v; ++end) lanes += end->length;
    if (!table_.consecutive()) return read_taps(first, end, first_key, keys, room, put);
    const index_t runs = lanes == n ? end - first : 0;
    if (runs == 1) return read_vector<1>(first, end, first_key, keys, put);
    if (runs == 2) return read_vector<2>(first, end, first_key, keys, put);
    return read_vector<0>(first, end, first_key, keys, put);
  }

  // Reads a vector of queries. kRuns is the number of its runs if they cover all lanes, else 0;
  // lanes outside all runs are 0.
  template <int kRuns, class Put>
  Put read_vector(const Run* runs, const Run* end, index_t first_key, index_t keys, Put put) const {
    const C* table = table_.head(head_);
    for_each_key_row(first_key, keys, [&](index_t a, index_t b, index_t b_end) {
      if constexpr (kRuns == 0) {
        for (; b < b_end; ++b) {
          Vector<C> bias{};
          for (const Run* run = runs; run < end; ++run) {
            const auto of_run = load<Vector<C>>(table + run->rows[a] + table_.first_column(b));
            bias = run->lanes != 0 ? of_run : bias;
          }
          put(bias);
        }
      } else {
        const C* first = table + runs[0].rows[a];
        const C* second = table + runs[kRuns - 1].rows[a];
        const Mask<C> lanes = runs[kRuns - 1].lanes;
        for (; b < b_end; ++b) {
          auto bias = load<Vector<C>>(first + table_.first_column(b));
          if constexpr (kRuns == 2)
            bias = lanes != 0 ? load<Vector<C>>(second + table_.first_column(b)) : bias;
          put(bias);
        }
      }
    });
    return put;
  }

  // The same of a table of several taps: one run at once, several one after the other in `room`.
  template <class Put>
  Put read_taps(const Run* runs, const Run* end, index_t first_key, index_t keys, C* room,
                Put put) {
    if (end - runs == 1) return read_taps_of_run(*runs, first_key, keys, put);
    for (index_t key = 0; key < keys; ++key) store(room + key * kBlock<C>, Vector<C>{});
    for (; runs < end; ++runs) {
      read_taps_of_run(*runs, first_key, keys, [at = room](Vector<C> bias) mutable {
        store(at, load<Vector<C>>(at) + bias);
        at += kBlock<C>;
      });
    }
    for (index_t key = 0; key < keys; ++key) put(load<Vector<C>>(room + key * kBlock<C>));
    return put;
  }

  template <class Put>
  Put read_taps_of_run(const Run& run, index_t first_key, index_t keys, Put put) {
    const C* table = &element<const C>(bias_.values, head_, 0, 0);
    const BiasTaps<C>& taps = table_.taps();
    const BiasResize<C>& resize = table_.resize();
    const auto put_lanes = [&](Vector<C> bias) { put(masked<C>(bias, run.lanes)); };
    if (resize.usable()) {
      const typename BiasResize<C>::Queries queries(resize, run.column, run.start);
      for_each_key_row(first_key, keys, [&](index_t a, index_t b, index_t b_end) {
        resize.read(queries, table + run.rows[a], b, b_end, resized_.data(), put_lanes);
      });
      return put;
    }
    for_each_key_row(first_key, keys, [&](index_t a, index_t b, index_t b_end) {
      for (; b < b_end; ++b) put_lanes(taps(table + run.rows[a], b, run.column, run.start));
    });
    return put;
  }

  // Neighbouring pooled columns read and write overlapping parts of the table, and a load waits for
  // a recent store that it overlaps. So the loop runs over all rows of a column before the next
  // column, in an order with few neighbouring columns in succession.
  void add_run_gradients(const C* d_logits, index_t first_key, index_t keys, C* d_table) const {
    constexpr index_t kApart = 4;
    const index_t width = pool_grid_.width;
    const index_t end_key = first_key + keys;
    const index_t begin[2] = {first_key / width, first_key % width};  // row and column
    const index_t finish[2] = {end_key / width, end_key % width};
    for (index_t r = 0; r < runs_in_block_; ++r) {
      const Run& run = runs_[r];
      const Mask<C> lanes = run.lanes;
      for (index_t phase = 0; phase < kApart; ++phase) {
        for (index_t b = phase; b < width; b += kApart) {
          C* to = d_table + table_.first_column(b);
          const index_t end = finish[0] + (b < finish[1]);
          index_t a = begin[0] + (b < begin[1]);
          const C* from = d_logits + (a * width + b - first_key) * kBlock<C> + run.vector * n;
          for (; a < end; ++a, from += width * kBlock<C>) {
            C* at = to + run.rows[a];
            store(at, load<Vector<C>>(at) + masked<C>(load<Vector<C>>(from), lanes));
          }
        }
      }
    }
  }

  void add_tap_gradients(const C* d_logits, index_t first_key, index_t keys, C* d_table) {
    const auto first_lane = [](const Run& run) { return run.vector * n + run.start; };
    if (!spread_prepared_) {
      for (index_t r = 0; r < runs_in_block_; ++r)
        spread_.prepare(r, runs_[r].column, first_lane(runs_[r]), runs_[r].length);
      spread_prepared_ = true;
    }
    for (index_t r = 0; r < runs_in_block_; ++r) {
      const Run& run = runs_[r];
      const index_t lane = first_lane(run);
      for_each_key(first_key, keys, [&](index_t key, index_t a, index_t b) {
        const index_t row = element<const int>(bias_.row_map, run.row, a);
        spread_.add(r, b, lane, run.length, d_logits + key * kBlock<C> + lane,
                    d_table + row * table_.stride());
      });
    }
  }

  void fill_dense(C* logits, index_t first_key, index_t keys) const {
    const bool contiguous = bias_.values.stride[2] == 1;
    for (index_t v = 0; v < 2; ++v) {
      for (index_t key = 0; key < keys; key += n) {
        Vector<C> square[n];
        for (int i = 0; i < n; ++i) {
          square[i] = Vector<C>{};
          if (v * n + i < count_)
            square[i] =
                load_lanes<C>(&element<const C>(bias_.values, head_, first_ + v * n + i, first_key),
                              contiguous ? 1 : bias_.values.stride[2], key, keys);
        }
        transpose_square<C>(square);
        for (int i = 0; i < smaller(n, keys - key); ++i)
          store(logits + (key + i) * kBlock<C> + v * n, square[i]);
      }
    }
  }

  void add_dense_gradient(const C* d_logits, index_t first_key, index_t keys, C* d_bias) const {
    for (index_t v = 0; v * n < count_; ++v) {
      for (index_t key = 0; key < keys; key += n) {
        Vector<C> square[n];
        for (int i = 0; i < n; ++i)
          square[i] = key + i < keys ? load<Vector<C>>(d_logits + (key + i) * kBlock<C> + v * n)
                                     : Vector<C>{};
        transpose_square<C>(square);
        for (int i = 0; i < smaller(n, count_ - v * n); ++i) {
          C* row = d_bias + (first_ + v * n + i) * pool_grid_.size() + first_key;
          store_lanes<C>(row, 1, key, keys, load_lanes<C>(row, 1, key, keys) + square[i]);
        }
      }
    }
  }

  // Lanes beyond the last query repeat that query.
  void find_entries() {
    if (entries_found_) return;
    entries_found_ = true;
    for (index_t lane = 0; lane < kBlock<C>; ++lane) {
      const index_t token = first_ + smaller(lane, count_ - 1);
      const index_t i = token / grid_.width;
      const index_t j = token % grid_.width;
      for (index_t a = 0; a < pool_grid_.height; ++a)
        rows_[a * kBlock<C> + lane] = element<const int>(bias_.row_map, i, a);
      for (index_t b = 0; b < pool_grid_.width; ++b) {
        for (index_t t = 0; t < taps_; ++t) {
          const index_t at = (b * taps_ + t) * kBlock<C> + lane;
          columns_[at] = element<const int>(bias_.col_map, j, b, t);
          if (weights_.size() > 0) weights_[at] = element<const C>(bias_.col_weights, j, b, t);
        }
      }
    }
  }

  // visit(key - first_key, row of pooled cells, column) in the order of the keys.
  template <class Visit>
  void for_each_key(index_t first_key, index_t keys, Visit&& visit) const {
    index_t a = first_key / pool_grid_.width;
    index_t b = first_key % pool_grid_.width;
    for (index_t key = 0; key < keys; ++key) {
      visit(key, a, b);
      if (++b == pool_grid_.width) {
        b = 0;
        ++a;
      }
    }
  }

  // visit(row of pooled cells, its first column, the column after its last) in the order of the keys.
  template <class Visit>
  void for_each_key_row(index_t first_key, index_t keys, Visit&& visit) const {
    index_t a = first_key / pool_grid_.width;
    index_t b = first_key % pool_grid_.width;
    for (; keys > 0; ++a, b = 0) {
      const index_t end = smaller(pool_grid_.width, b + keys);
      visit(a, b, end);
      keys -= end - b;
    }
  }

  // visit(offset into the logits, table row, table column, weight) for every table entry that
  // contributes to these logits.
  template <class Visit>
  void for_each_entry(index_t first_key, index_t keys, Visit&& visit) const {
    const bool weighted = weights_.size() > 0;
    for_each_key(first_key, keys, [&](index_t key, index_t a, index_t b) {
      const index_t* rows = &rows_[a * kBlock<C>];
      for (index_t t = 0; t < taps_; ++t) {
        const index_t at = (b * taps_ + t) * kBlock<C>;
        for (index_t lane = 0; lane < kBlock<C>; ++lane)
          visit(key * kBlock<C> + lane, rows[lane], columns_[at + lane],
                weighted ? weights_[at + lane] : C(1));
      }
    });
  }

  const BiasTable<C>& table_;
  const PoolBias& bias_;
  Grid grid_;
  Grid pool_grid_;
  index_t taps_;
  Scratch<Run> runs_;          // [block]
  Scratch<index_t> rows_;      // [block][Hp] for runs, else [Hp][block]
  Scratch<index_t> run_rows_;  // [block][Hp] for runs next to entries
  Scratch<index_t> columns_;   // [Wp][taps][block]
  Scratch<C> weights_;         // [Wp][taps][block]
  Scratch<C> resized_;         // [key columns][lanes] of a row of the table
  BiasSpread<C> spread_;
  bool spread_prepared_ = false;
  index_t runs_in_block_ = 0;
  bool entries_found_ = false;
  index_t head_ = 0;
  index_t first_ = 0;
  index_t count_ = 0;
};

TRANSNEXT_END_LEVEL
