// position_bias_table on the CPU: the MLP (row, col) -> E hidden -> h biases over a product set of
// coordinates.
//
//   hidden[e] = ReLU(w_row[e] row + w_col[e] col + b1[e])
//   table[h]  = b2[h] + sum_e w2[h, e] hidden[e]
//
// Backward, with D = d_table, P[e] = (hidden[e] > 0) sum_h w2[h, e] D[h] and sums over positions:
//
//   d_w2[h, e] = sum D[h] hidden[e],   d_b2[h] = sum D[h]
//   d_w_row[e] = sum P[e] row,   d_w_col[e] = sum P[e] col,   d_b1[e] = sum P[e]
//
// Columns lie in the lanes, a block of two vectors at a time; `hidden` exists for one block only,
// [E][block], and the sums over e and h are small GEMMs (cpu/gemm/small_gemm.h). 2 E (h + 2) flops
// per table position forward, three times that backward; bytes are negligible. Each task has some
// rows of the table; each leaves one partial sum of the parameter gradients, and these are added in
// task order.
#include "transnext/position_bias_table.h"

#include "cpu/attention/tokens.h"
#include "cpu/gemm/small_gemm.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/ranges.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kTasksPerThread = 4;  // keeps uneven cores busy until the end

template <class C>
C at(const View<1>& view, index_t i) {
  return static_cast<const C*>(view.data)[i * view.stride[0]];
}
template <class C>
C at(const View<2>& view, index_t i, index_t j) {
  return static_cast<const C*>(view.data)[i * view.stride[0] + j * view.stride[1]];
}

template <class C>
void put(const View<1>& view, index_t i, C value) {
  static_cast<C*>(view.data)[i * view.stride[0]] = value;
}
template <class C>
void put(const View<2>& view, index_t i, index_t j, C value) {
  static_cast<C*>(view.data)[i * view.stride[0] + j * view.stride[1]] = value;
}

// hidden[e][lane] for one row and one block of columns.
template <class C>
void hidden_block(const View<2>& fc1_weight, const View<1>& fc1_bias, C row, const C* columns,
                  C* hidden) {
  for (index_t e = 0; e < fc1_weight.shape[0]; ++e) {
    const C constant = at<C>(fc1_weight, e, 0) * row + at<C>(fc1_bias, e);
    const C slope = at<C>(fc1_weight, e, 1);
    for (int v = 0; v < 2; ++v) {
      const Vector<C> sum = constant + slope * load<Vector<C>>(columns + v * kLanes<C>);
      store(hidden + e * kBlock<C> + v * kLanes<C>, sum < 0 ? Vector<C>{} : sum);  // keeps NaN
    }
  }
}

template <class C>
void load_columns(const View<1>& col_coords, index_t first, index_t count, C* columns) {
  for (index_t lane = 0; lane < kBlock<C>; ++lane)
    columns[lane] = lane < count ? at<C>(col_coords, first + lane) : C(0);
}

template <class C>
void forward(const PositionBiasTableParams& p, int threads) {
  const index_t heads = p.table.shape[0];
  const index_t rows = p.table.shape[1];
  const index_t columns = p.table.shape[2];
  const index_t hidden_size = p.fc1_weight.shape[0];
  parallel_for(rows, threads, [&](index_t row) {
    Scratch<C> coordinates(kBlock<C>);
    Scratch<C> hidden(hidden_size * kBlock<C>);
    Scratch<C> block(heads * kBlock<C>);
    for (index_t first = 0; first < columns; first += kBlock<C>) {
      const index_t count = smaller(kBlock<C>, columns - first);
      load_columns(p.col_coords, first, count, coordinates.data());
      hidden_block(p.fc1_weight, p.fc1_bias, at<C>(p.row_coords, row), coordinates.data(),
                   hidden.data());
      multiply<C>(heads, hidden_size, kBlock<C>,
                  {static_cast<const C*>(p.fc2_weight.data), p.fc2_weight.stride[0],
                   p.fc2_weight.stride[1]},
                  {hidden.data(), kBlock<C>}, {block.data(), kBlock<C>}, false);
      for (index_t head = 0; head < heads; ++head) {
        C* out = static_cast<C*>(p.table.data) + head * p.table.stride[0] + row * p.table.stride[1];
        for (index_t lane = 0; lane < count; ++lane)
          out[(first + lane) * p.table.stride[2]] =
              block[head * kBlock<C> + lane] + at<C>(p.fc2_bias, head);
      }
    }
  });
}

// One task's partial sums of the parameter gradients, in memory that the caller owns.
template <class C>
struct Gradients {
  index_t heads;
  index_t hidden;
  C* data;

  index_t width() const { return round_up(hidden, kLanes<C>); }
  index_t size() const { return heads * width() + heads + 3 * hidden; }
  C* fc2_weight() const { return data; }                  // [h][padded E]
  C* fc2_bias() const { return data + heads * width(); }  // [h]
  C* fc1(int part) const {
    return fc2_bias() + heads + part * hidden;
  }  // [E]: row weight, column weight, bias
};

template <class C>
void backward_rows(const PositionBiasTableBackwardParams& p, index_t row_begin, index_t row_end,
                   const Gradients<C>& total) {
  const index_t heads = p.d_table.shape[0];
  const index_t columns = p.d_table.shape[2];
  const index_t hidden_size = p.fc1_weight.shape[0];
  const index_t width = total.width();
  Scratch<C> coordinates(kBlock<C>);
  Scratch<C> hidden(width * kBlock<C>);       // [E][block]
  Scratch<C> hidden_rows(width * kBlock<C>);  // [block][E]
  Scratch<C> d_hidden(width * kBlock<C>);     // [E][block]
  Scratch<C> d_block(heads * kBlock<C>);      // [h][block]
  hidden.zero();
  for (index_t row = row_begin; row < row_end; ++row) {
    const C row_coordinate = at<C>(p.row_coords, row);
    for (index_t first = 0; first < columns; first += kBlock<C>) {
      const index_t count = smaller(kBlock<C>, columns - first);
      load_columns(p.col_coords, first, count, coordinates.data());
      hidden_block(p.fc1_weight, p.fc1_bias, row_coordinate, coordinates.data(), hidden.data());
      for (index_t head = 0; head < heads; ++head) {
        const C* from = static_cast<const C*>(p.d_table.data) + head * p.d_table.stride[0] +
                        row * p.d_table.stride[1];
        for (index_t lane = 0; lane < kBlock<C>; ++lane) {
          const C gradient = lane < count ? from[(first + lane) * p.d_table.stride[2]] : C(0);
          d_block[head * kBlock<C> + lane] = gradient;
          total.fc2_bias()[head] += gradient;
        }
      }
      transpose(hidden.data(), kBlock<C>, width, kBlock<C>, hidden_rows.data(), width);
      multiply<C>(heads, kBlock<C>, width, {d_block.data(), kBlock<C>, 1},
                  {hidden_rows.data(), width}, {total.fc2_weight(), width}, true);
      multiply<C>(hidden_size, heads, kBlock<C>,
                  {static_cast<const C*>(p.fc2_weight.data), p.fc2_weight.stride[1],
                   p.fc2_weight.stride[0]},
                  {d_block.data(), kBlock<C>}, {d_hidden.data(), kBlock<C>}, false);
      for (index_t e = 0; e < hidden_size; ++e) {
        Vector<C> sum{};
        Vector<C> sum_columns{};
        for (int v = 0; v < 2; ++v) {
          const index_t i = e * kBlock<C> + v * kLanes<C>;
          const Vector<C> gradient =
              load<Vector<C>>(&hidden[i]) > 0 ? load<Vector<C>>(&d_hidden[i]) : Vector<C>{};
          sum += gradient;
          sum_columns += gradient * load<Vector<C>>(&coordinates[v * kLanes<C>]);
        }
        const C bias = sum_lanes<C>(sum);
        total.fc1(0)[e] += bias * row_coordinate;
        total.fc1(1)[e] += sum_lanes<C>(sum_columns);
        total.fc1(2)[e] += bias;
      }
    }
  }
}

template <class C>
void backward(const PositionBiasTableBackwardParams& p, int threads) {
  const index_t heads = p.d_table.shape[0];
  const index_t rows = p.d_table.shape[1];
  const index_t hidden = p.fc1_weight.shape[0];
  const index_t tasks = larger(1, smaller(rows, kTasksPerThread * threads));
  const index_t size = Gradients<C>{heads, hidden, nullptr}.size();
  Scratch<C> partials(tasks * size);
  partials.zero();
  parallel_for(tasks, threads, [&](index_t task) {
    backward_rows<C>(p, range_begin(task, rows, tasks), range_begin(task + 1, rows, tasks),
                     {heads, hidden, &partials[task * size]});
  });
  for (index_t task = 1; task < tasks; ++task) {
    for (index_t i = 0; i < size; ++i) partials[i] += partials[task * size + i];
  }

  const Gradients<C> total{heads, hidden, partials.data()};
  for (index_t e = 0; e < hidden; ++e) {
    for (int axis = 0; axis < 2; ++axis) {
      if (p.d_fc1_weight.present()) put(p.d_fc1_weight, e, axis, total.fc1(axis)[e]);
    }
    if (p.d_fc1_bias.present()) put(p.d_fc1_bias, e, total.fc1(2)[e]);
  }
  for (index_t head = 0; head < heads; ++head) {
    if (p.d_fc2_bias.present()) put(p.d_fc2_bias, head, total.fc2_bias()[head]);
    for (index_t e = 0; e < hidden && p.d_fc2_weight.present(); ++e)
      put(p.d_fc2_weight, head, e, total.fc2_weight()[head * total.width() + e]);
  }
}

}  // namespace

void position_bias_table(const PositionBiasTableParams& params, int threads) {
  with_compute(params.table.dtype, [&](auto zero) { forward<decltype(zero)>(params, threads); });
}

void position_bias_table_backward(const PositionBiasTableBackwardParams& params, int threads) {
  with_compute(params.d_table.dtype, [&](auto zero) { backward<decltype(zero)>(params, threads); });
}

TRANSNEXT_END_LEVEL
