// convolutional_glu on the CPU. The formula is in transnext/convolutional_glu.h.
//
// A task walks down a tile of one image, a step of some rows at a time, and in a step from one panel
// of hidden features to the next: fc1 of the step's rows for both halves of the panel, then
// convolution and gate of the rows that now have a row below them. So the features before the gate
// come from a nearby cache, and only a panel's last two rows are kept for the next step. When all
// hidden features of these rows are known, fc2 follows. Only x and out use memory bandwidth: at stage
// 1 of TransNeXt-Tiny 0.6 kB per token instead of 8 kB.
//
// The depthwise convolution reaches one token beyond the tile, where fc1 is computed twice, once
// for each side. So tiles are as large as an even split over the threads allows; where they would
// be thinner than kLeastRows, the three steps run one after the other instead, through memory.
#include "transnext/convolutional_glu.h"

#include "cpu/gemm/gemm_rows.h"
#include "cpu/glu/gate.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/runtime/views.h"
#include "transnext/conv_glu.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kTileWidth = 80;  // tokens: wider images are split into columns
// Of fc1 at a time, which amortise reading the weights from cache: the tile unit, which multiplies
// faster, needs more of them.
template <class E>
constexpr index_t kStepTokens = Product<E>::kDepth >= 32 ? 224 : 56;
constexpr index_t kLeastRows = 3;

struct Tiles {
  index_t columns;  // tiles of an image row
  index_t bands;    // of an image
  index_t width;    // tokens of a tile row
  index_t height;

  static Tiles make(Grid grid, index_t batches, int threads) {
    Tiles tiles;
    tiles.columns = (grid.width - 1) / kTileWidth + 1;
    tiles.width = (grid.width - 1) / tiles.columns + 1;
    tiles.columns = (grid.width - 1) / tiles.width + 1;
    tiles.bands = 1;
    while (tiles.bands < grid.height && !even(batches * tiles.columns * tiles.bands, threads))
      ++tiles.bands;
    tiles.height = (grid.height - 1) / tiles.bands + 1;
    tiles.bands = (grid.height - 1) / tiles.height + 1;
    return tiles;
  }

  static bool even(index_t tasks, int threads) {
    return tasks % threads == 0 || tasks >= 4 * static_cast<index_t>(threads);
  }
};

template <class E, class C>
class GluTask {
  using Left = LeftOf<E>;

 public:
  GluTask(const ConvolutionalGluParams& p, const Tiles& tiles, const Norm<C>& norm,
          const C* value_bias, const C* gate_bias, const Taps<C>& taps, const C* out_bias)
      : p_(p),
        norm_(norm),
        value_bias_(value_bias),
        gate_bias_(gate_bias),
        taps_(taps),
        out_bias_(out_bias),
        depth_(p.x.shape[2]),
        hidden_(p.fc2_weight.depth),
        step_rows_(smaller(larger(kKeptRows, (kStepTokens<E> - 1) / tiles.width + 1),
                           smaller(tiles.height + 2, p.grid.height))),
        columns_(tiles.width + 2),
        left_stride_(product_stride<E>(depth_)),
        hidden_stride_(product_stride<E>(round_up(hidden_, kLanes<C>))),
        kept_size_((kKeptRows * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        left_(((step_rows_ + 1) * columns_ + Product<E>::kSpareRows) * left_stride_),
        row_(depth_),
        values_((step_rows_ * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        kept_(step_rows_ < smaller(tiles.height + 2, p.grid.height)
                  ? 2 * panels_of<E>(p.value_weight).count() * kept_size_
                  : 0),
        gates_(((step_rows_ + 1) * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        hidden_rows_(((step_rows_ + 1) * tiles.width + Product<E>::kSpareRows) * hidden_stride_),
        tokens_((step_rows_ + 1) * tiles.width) {
    // A GEMM may read more features than there are, and multiplies them by zero weights.
    for (index_t i = 0; i < hidden_rows_.size(); i += hidden_stride_)
      clear_row_end<E>(hidden_, &hidden_rows_[i]);
  }

  void run(index_t batch, index_t row_begin, index_t row_end, index_t column_begin,
           index_t column_end) {
    batch_ = batch;
    column_begin_ = column_begin;
    column_end_ = column_end;
    const index_t first = larger(row_begin - 1, 0);
    const index_t last = smaller(row_end + 1, p_.grid.height);
    index_t row = row_begin;
    for (begin_ = first; begin_ < last; begin_ = end_, kept_half_ = 1 - kept_half_) {
      end_ = smaller(begin_ + step_rows_, last);
      keep_from_ = end_ < last ? end_ - kKeptRows : end_;
      load_rows(begin_ > first);
      const index_t ready =
          larger(row, end_ == p_.grid.height ? row_end : smaller(row_end, end_ - 1));
      hide(row, ready);
      if (ready > row) second_product(row, ready);
      row = ready;
    }
  }

 private:
  // Rows of values that the next step's first rows are convolved with.
  static constexpr index_t kKeptRows = 2;

  index_t tile_width() const { return column_end_ - column_begin_; }
  View<2> image(const View<3>& tensor) const {
    View<2> view;
    view.data =
        static_cast<char*>(tensor.data) + batch_ * tensor.stride[0] * element_size(tensor.dtype);
    view.dtype = tensor.dtype;
    for (int i = 0; i < 2; ++i) {
      view.shape[i] = tensor.shape[i + 1];
      view.stride[i] = tensor.stride[i + 1];
    }
    return view;
  }
  // The columns of fc1: the tile's and one on each side, if the image has it.
  index_t first_known() const { return larger(column_begin_ - 1, 0); }
  index_t known_columns() const { return smaller(column_end_ + 1, p_.grid.width) - first_known(); }

  // A row of the step, or the one before it.
  Left* left_row(index_t row) {
    return &left_[(row - begin_ + 1) * known_columns() * left_stride_];
  }
  // Where a panel's values are, of a row of the step or one of the two before it.
  C* value_row(index_t panel, index_t row) {
    const auto at = [&](C* rows, index_t first) {
      return rows + (row - first) * known_columns() * kPanelColumns;
    };
    const auto kept = [&](index_t half) { return &kept_[(2 * panel + half) * kept_size_]; };
    if (row >= keep_from_) return at(kept(kept_half_), keep_from_);
    if (row >= begin_) return at(values_.data(), begin_);
    return at(kept(1 - kept_half_), begin_ - kKeptRows);
  }

  // Normalises the step's rows, after the last one of the step before.
  void load_rows(bool follows) {
    const index_t count = known_columns();
    if (follows)
      __builtin_memcpy(static_cast<void*>(left_row(begin_ - 1)), left_row(begin_ + step_rows_ - 1),
                       static_cast<unsigned long>(count * left_stride_) * sizeof(Left));
    const View<2> x = image(p_.x);
    for (index_t row = begin_; row < end_; ++row)
      load_product_rows<E, C>(x, row * p_.grid.width + first_known(), count, norm_, row_.data(),
                              left_row(row), left_stride_);
  }

  // The hidden features of the rows begin .. end - 1, and the values of all rows of the step.
  void hide(index_t begin, index_t end) {
    const index_t count = known_columns();
    const Panels<E> values = panels_of<E>(p_.value_weight);
    const Panels<E> gates = panels_of<E>(p_.gate_weight);
    const auto multiply_rows = [&](const Panels<E>& panels, index_t panel, const C* bias,
                                   index_t first, index_t last, C* to) {
      multiply_strips<E>({left_row(first), left_stride_}, (last - first) * count, panels, panel,
                         bias + panel * kPanelColumns, to);
    };
    for (index_t panel = 0; panel < values.count(); ++panel) {
      multiply_rows(values, panel, value_bias_, begin_, keep_from_, values_.data());
      if (keep_from_ < end_)
        multiply_rows(values, panel, value_bias_, keep_from_, end_, value_row(panel, keep_from_));
      if (begin == end) continue;
      multiply_rows(gates, panel, gate_bias_, begin, end, gates_.data());
      for (index_t row = begin; row < end; ++row)
        gate(panel, values.used(panel), row, &gates_[(row - begin) * count * kPanelColumns],
             &hidden_rows_[(row - begin) * tile_width() * hidden_stride_]);
    }
  }

  // Convolution and gate of one row.
  void gate(index_t panel, index_t channels, index_t row, const C* gates, Left* hidden) {
    const RowWindow<C> values{row > 0 ? value_row(panel, row - 1) : nullptr,
                              value_row(panel, row),
                              row + 1 < p_.grid.height ? value_row(panel, row + 1) : nullptr,
                              kPanelColumns,
                              1,
                              known_columns(),
                              channels};
    const index_t origin = panel * kPanelColumns;
    const index_t first = column_begin_ - first_known();
    gate_row<C>(values, taps_.from(origin), TokenRow<const C>{gates, kPanelColumns, 1},
                TokenRow<Left>{hidden - first * hidden_stride_, hidden_stride_, 1}, first,
                first + tile_width(), origin);
  }

  // fc2 and residual of the rows begin .. end - 1.
  void second_product(index_t begin, index_t end) {
    const index_t width = tile_width();
    for (index_t row = begin; row < end; ++row) {
      for (index_t i = 0; i < width; ++i)
        tokens_[(row - begin) * width + i] = row * p_.grid.width + column_begin_ + i;
    }
    with_storage_of<E>(p_.x.dtype, [&](auto element) {
      this->second_product_into(image(p_.x), image(p_.out), (end - begin) * width, element);
    });
  }

  template <class T>
  void second_product_into(const View<2>& x, const View<2>& out, index_t count, T) {
    const Panels<E> panels = panels_of<E>(p_.fc2_weight);
    for (index_t panel = 0; panel < panels.count(); ++panel) {
      const index_t origin = panel * kPanelColumns;
      product<E>({hidden_rows_.data(), hidden_stride_}, count, panels, panel, out_bias_ + origin,
                 [&](index_t i, index_t column, Vector<C> sum) {
                   const index_t at = origin + column;
                   const index_t token = tokens_[i];
                   const T* residual = static_cast<const T*>(x.data) + token * x.stride[0];
                   sum += load_lanes<C>(residual, x.stride[1], at, depth_);
                   store_lanes<C>(static_cast<T*>(out.data) + token * out.stride[0], out.stride[1],
                                  at, depth_, sum);
                 });
    }
  }

  const ConvolutionalGluParams& p_;
  const Norm<C>& norm_;
  const C* value_bias_;
  const C* gate_bias_;
  Taps<C> taps_;
  const C* out_bias_;
  index_t depth_;   // C
  index_t hidden_;  //
  index_t step_rows_;
  index_t columns_;        // of fc1: the tile's and one on each side
  index_t left_stride_;    // of a normalised token
  index_t hidden_stride_;  // of a token's hidden features after the gate
  index_t kept_size_;
  Scratch<Left> left_;         // [1 + step][columns][left_stride]
  Scratch<C> row_;             // [C]
  Scratch<C> values_;          // [step][columns][panel columns]
  Scratch<C> kept_;            // [panel][this step's, the last one's][2][columns][panel columns]
  Scratch<C> gates_;           // [1 + step][columns][panel columns]
  Scratch<Left> hidden_rows_;  // [1 + step][tile width][hidden_stride]
  Scratch<index_t> tokens_;    // of hidden_rows_
  index_t begin_ = 0;          // rows of the step
  index_t end_ = 0;
  index_t keep_from_ = 0;  // its rows from this one on are kept for the next
  index_t kept_half_ = 0;
  index_t batch_ = 0;
  index_t column_begin_ = 0;
  index_t column_end_ = 0;
};

template <class E, class C>
void tiled(const ConvolutionalGluParams& p, const Tiles& tiles, int threads) {
  const index_t depth = p.x.shape[2];
  const index_t hidden = p.fc2_weight.depth;
  Scratch<C> norm_room(p.norm.weight.present() ? 2 * depth : 0);
  const Norm<C> norm = contiguous_norm<C>(p.norm, depth, norm_room);
  Scratch<C> value_room(whole_panels(hidden));
  Scratch<C> gate_room(whole_panels(hidden));
  Scratch<C> out_room(whole_panels(depth));
  const C* value_bias = padded_bias<C>(p.fc1_bias, 0, hidden, value_room);
  const C* gate_bias = padded_bias<C>(p.fc1_bias, hidden, hidden, gate_room);
  const C* out_bias = padded_bias<C>(p.fc2_bias, 0, depth, out_room);
  const DepthwiseWeights<C> gate(p.conv_weight, p.conv_bias);
  parallel_for(p.x.shape[0] * tiles.bands * tiles.columns, threads, [&](index_t task) {
    const index_t column = task % tiles.columns;
    const index_t band = task / tiles.columns % tiles.bands;
    const typename Product<E>::Unit unit;
    GluTask<E, C> glu(p, tiles, norm, value_bias, gate_bias, gate.taps(), out_bias);
    glu.run(task / tiles.columns / tiles.bands, band * tiles.height,
            smaller((band + 1) * tiles.height, p.grid.height), column * tiles.width,
            smaller((column + 1) * tiles.width, p.grid.width));
  });
}

// fc1, gate and fc2 one after the other, image by image.
template <class C>
void stepwise(const ConvolutionalGluParams& p, int threads) {
  const index_t tokens = p.grid.size();
  const index_t hidden = p.fc2_weight.depth;
  Scratch<C> both(tokens * 2 * hidden);
  Scratch<C> gated(tokens * hidden);
  const DType dtype = sizeof(C) == 8 ? DType::kFloat64 : DType::kFloat32;
  for (index_t batch = 0; batch < p.x.shape[0]; ++batch) {
    const View<3> x = images_of(p.x, batch, 1);
    LinearParams half;
    half.x = tokens_of(x);
    half.norm = p.norm;
    View<2> features = contiguous<2>(both.data(), dtype, {tokens, 2 * hidden});
    for (int i = 0; i < 2; ++i) {
      half.weight = i == 0 ? p.value_weight : p.gate_weight;
      half.bias = p.fc1_bias;
      if (half.bias.present()) {
        half.bias.data = static_cast<C*>(half.bias.data) + i * hidden * half.bias.stride[0];
        half.bias.shape[0] = hidden;
      }
      half.out = features;
      half.out.data = static_cast<C*>(features.data) + i * hidden;
      half.out.shape[1] = hidden;
      cpu::linear(half, threads);
    }
    ConvGluParams gate;
    gate.x = contiguous<3>(both.data(), dtype, {1, tokens, 2 * hidden});
    gate.weight = p.conv_weight;
    gate.bias = p.conv_bias;
    gate.out = contiguous<3>(gated.data(), dtype, {1, tokens, hidden});
    gate.grid = p.grid;
    cpu::conv_glu(gate, threads);
    LinearParams last;
    last.x = contiguous<2>(gated.data(), dtype, {tokens, hidden});
    last.weight = p.fc2_weight;
    last.bias = p.fc2_bias;
    last.residual = tokens_of(x);
    last.out = tokens_of(images_of(p.out, batch, 1));
    cpu::linear(last, threads);
  }
}

}  // namespace

void convolutional_glu(const ConvolutionalGluParams& params, int threads) {
  if (params.x.shape[0] == 0) return;
  const Tiles tiles = Tiles::make(params.grid, params.x.shape[0], larger(threads, 1));
  with_product(params.fc2_weight.dtype, [&](auto product_type, auto compute) {
    using C = decltype(compute);
    if (tiles.height < kLeastRows && tiles.bands > 1) return stepwise<C>(params, threads);
    tiled<decltype(product_type), C>(params, tiles, threads);
  });
}

TRANSNEXT_END_LEVEL
