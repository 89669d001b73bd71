// The Convolutional GLU of a tile of an image, or of some panels of an image's features: a task of
// convolutional_glu.cpp, which says how they go together.
#pragma once

#include "cpu/gemm/gemm_rows.h"
#include "cpu/glu/gate.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/views.h"
#include "transnext/convolutional_glu.h"

TRANSNEXT_BEGIN_LEVEL

constexpr index_t kTileWidth = 80;  // tokens: wider images are split into columns
// Of fc1 at a time, which amortise reading the weights from cache: the tile unit, which multiplies
// faster, needs more of them.
template <class E>
constexpr index_t kStepTokens = kOnTileUnit<E> ? 224 : 56;

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

// The parameters but for the packed weights, as tasks read them.
template <class C>
struct GluParameters {
  explicit GluParameters(const ConvolutionalGluParams& p)
      : norm_room(p.norm.weight.present() ? 2 * p.x.shape[2] : 0),
        value_room(whole_panels(p.fc2_weight.depth)),
        gate_room(whole_panels(p.fc2_weight.depth)),
        out_room(whole_panels(p.x.shape[2])),
        norm(contiguous_norm<C>(p.norm, p.x.shape[2], norm_room)),
        value_bias(padded_bias<C>(p.fc1_bias, 0, p.fc2_weight.depth, value_room)),
        gate_bias(padded_bias<C>(p.fc1_bias, p.fc2_weight.depth, p.fc2_weight.depth, gate_room)),
        out_bias(padded_bias<C>(p.fc2_bias, 0, p.x.shape[2], out_room)),
        convolution(p.conv_weight, p.conv_bias) {}

  Scratch<C> norm_room;
  Scratch<C> value_room;
  Scratch<C> gate_room;
  Scratch<C> out_room;
  Norm<C> norm;
  const C* value_bias;
  const C* gate_bias;
  const C* out_bias;
  DepthwiseWeights<C> convolution;
};

// Elements of a token's hidden features after the gate.
template <class E, class C>
index_t hidden_stride(const ConvolutionalGluParams& p) {
  return product_stride<E>(round_up(p.fc2_weight.depth, kLanes<C>));
}

// Features of a whole image that its tasks have in common.
template <class E>
struct ImageFeatures {
  LeftOf<E>* normed = nullptr;  // a row of the image, whatever it holds, then all: [H + 1][W][C]
  LeftOf<E>* hidden = nullptr;  // [H][W][hidden]
};

template <class E, class C>
class GluTask {
  using Left = LeftOf<E>;

 public:
  // For tiles, in steps of `step_tokens`, or for groups of `images` whole images that are one step; for
  // parts of an image, with its features.
  GluTask(const ConvolutionalGluParams& p, const Tiles& tiles, const GluParameters<C>& parameters,
          index_t step_tokens, index_t images = 1, const ImageFeatures<E>& features = {})
      : p_(p),
        parameters_(parameters),
        taps_(parameters.convolution.taps()),
        depth_(p.x.shape[2]),
        hidden_(p.fc2_weight.depth),
        step_rows_(images > 1 ? images * p.grid.height
                              : smaller(larger(kKeptRows, (step_tokens - 1) / tiles.width + 1),
                                        smaller(tiles.height + 2, p.grid.height))),
        columns_(tiles.width + 2),
        left_stride_(product_stride<E>(depth_)),
        hidden_stride_(hidden_stride<E, C>(p)),
        kept_size_((kKeptRows * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        left_room_(features.normed != nullptr
                       ? 0
                       : ((step_rows_ + 1) * columns_ + Product<E>::kSpareRows) * left_stride_),
        left_rows_(features.normed != nullptr ? features.normed : left_room_.data()),
        row_(depth_),
        values_((step_rows_ * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        kept_(step_rows_ < smaller(tiles.height + 2, p.grid.height)
                  ? 2 * panels_of<E>(p.value_weight).count() * kept_size_
                  : 0),
        gates_(((step_rows_ + 1) * columns_ + Product<E>::kSpareRows) * kPanelColumns),
        hidden_room_(features.hidden != nullptr
                         ? 0
                         : ((step_rows_ + 1) * tiles.width + Product<E>::kSpareRows) *
                               hidden_stride_),
        hidden_rows_(features.hidden != nullptr ? features.hidden : hidden_room_.data()),
        residuals_((step_rows_ + 1) * tiles.width),
        results_((step_rows_ + 1) * tiles.width) {
    // A GEMM may read more features than there are, and multiplies them by zero weights.
    for (index_t i = 0; i < hidden_room_.size(); i += hidden_stride_)
      clear_row_end<E>(hidden_, &hidden_room_[i]);
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
      hide(row, ready, 0, panels_of<E>(p_.value_weight).count());
      if (ready > row) second_product(row, ready, 0, panels_of<E>(p_.fc2_weight).count());
      row = ready;
    }
  }

  // Whole images, as one step.
  void run_images(index_t first, index_t count) {
    begin_images(first, count);
    load_rows(false);
    hide(0, end_, 0, panels_of<E>(p_.value_weight).count());
    second_product(0, end_, 0, panels_of<E>(p_.fc2_weight).count());
  }

  // Normalises some rows of an image.
  void load_image(index_t batch, index_t first_row, index_t last_row) {
    begin_images(batch, 1);
    for (index_t row = first_row; row < last_row; ++row) load_row(row);
  }

  // Some panels of its hidden features, when all of its rows are known.
  void hide_image(index_t batch, index_t first_panel, index_t last_panel) {
    begin_images(batch, 1);
    hide(0, end_, first_panel, last_panel);
  }

  // Some panels of its out, when all of its hidden features are known.
  void finish_image(index_t batch, index_t first_panel, index_t last_panel) {
    begin_images(batch, 1);
    second_product(0, end_, first_panel, last_panel);
  }

 private:
  // Rows of values that the next step's first rows are convolved with.
  static constexpr index_t kKeptRows = 2;

  void begin_images(index_t first, index_t count) {
    batch_ = first;
    column_begin_ = 0;
    column_end_ = p_.grid.width;
    begin_ = 0;
    end_ = keep_from_ = count * p_.grid.height;
  }

  index_t tile_width() const { return column_end_ - column_begin_; }
  // A step of several images counts their rows one image after the other.
  index_t row_in_image(index_t row) const { return row % p_.grid.height; }
  View<2> image_of_row(const View<3>& tensor, index_t row) const {
    const index_t batch = batch_ + row / p_.grid.height;
    View<2> view;
    view.data =
        static_cast<char*>(tensor.data) + batch * tensor.stride[0] * element_size(tensor.dtype);
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
    return left_rows_ + (row - begin_ + 1) * known_columns() * left_stride_;
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
    for (index_t row = begin_; row < end_; ++row) load_row(row);
  }
  void load_row(index_t row) {
    load_product_rows<E, C>(image_of_row(p_.x, row),
                            row_in_image(row) * p_.grid.width + first_known(), known_columns(),
                            parameters_.norm, row_.data(), left_row(row), left_stride_);
  }

  // Panels of the hidden features of the rows begin .. end - 1, and of the values of all rows of the
  // step.
  void hide(index_t begin, index_t end, index_t first_panel, index_t last_panel) {
    const index_t count = known_columns();
    const Panels<E> values = panels_of<E>(p_.value_weight);
    const Panels<E> gates = panels_of<E>(p_.gate_weight);
    const auto multiply_rows = [&](const Panels<E>& panels, index_t panel, const C* bias,
                                   index_t first, index_t last, C* to) {
      multiply_strips<E>({left_row(first), left_stride_}, (last - first) * count, panels, panel,
                         bias + panel * kPanelColumns, to);
    };
    for (index_t panel = first_panel; panel < last_panel; ++panel) {
      multiply_rows(values, panel, parameters_.value_bias, begin_, keep_from_, values_.data());
      if (keep_from_ < end_)
        multiply_rows(values, panel, parameters_.value_bias, keep_from_, end_,
                      value_row(panel, keep_from_));
      if (begin == end) continue;
      multiply_rows(gates, panel, parameters_.gate_bias, begin, end, gates_.data());
      for (index_t row = begin; row < end; ++row)
        gate(panel, values.used(panel), row, &gates_[(row - begin) * count * kPanelColumns],
             &hidden_rows_[(row - begin) * tile_width() * hidden_stride_]);
    }
  }

  // Convolution and gate of one row.
  void gate(index_t panel, index_t channels, index_t row, const C* gates, Left* hidden) {
    const index_t in_image = row_in_image(row);
    const RowWindow<C> values{in_image > 0 ? value_row(panel, row - 1) : nullptr,
                              value_row(panel, row),
                              in_image + 1 < p_.grid.height ? value_row(panel, row + 1) : nullptr,
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

  // Panels of fc2 and residual of the rows begin .. end - 1.
  void second_product(index_t begin, index_t end, index_t first_panel, index_t last_panel) {
    const index_t width = tile_width();
    for (index_t row = begin; row < end; ++row) {
      const index_t batch = batch_ + row / p_.grid.height;
      const index_t token = row_in_image(row) * p_.grid.width + column_begin_;
      for (index_t i = 0; i < width; ++i) {
        const index_t at = (row - begin) * width + i;
        residuals_[at] = batch * p_.x.stride[0] + (token + i) * p_.x.stride[1];
        results_[at] = batch * p_.out.stride[0] + (token + i) * p_.out.stride[1];
      }
    }
    with_storage_of<E>(p_.x.dtype, [&](auto element) {
      this->second_product_into<decltype(element)>((end - begin) * width, first_panel, last_panel);
    });
  }

  template <class T>
  void second_product_into(index_t count, index_t first_panel, index_t last_panel) {
    const Panels<E> panels = panels_of<E>(p_.fc2_weight);
    const T* x = static_cast<const T*>(p_.x.data);
    T* out = static_cast<T*>(p_.out.data);
    const index_t x_column = p_.x.stride[2];
    const index_t out_column = p_.out.stride[2];
    const index_t* const residuals = residuals_.data();
    const index_t* const results = results_.data();
    for (index_t panel = first_panel; panel < last_panel; ++panel) {
      const index_t origin = panel * kPanelColumns;
      const index_t used = panels.used(panel);
      product<E>({hidden_rows_, hidden_stride_}, count, panels, panel,
                 parameters_.out_bias + origin, [=](index_t i, const C* sums) {
                   store_sums(sums, used, x + residuals[i] + origin * x_column, x_column,
                              out + results[i] + origin * out_column, out_column);
                 });
    }
  }

  const ConvolutionalGluParams& p_;
  const GluParameters<C>& parameters_;
  Taps<C> taps_;
  index_t depth_;   // C
  index_t hidden_;  //
  index_t step_rows_;
  index_t columns_;        // of fc1: the tile's and one on each side
  index_t left_stride_;    // of a normalised token
  index_t hidden_stride_;  // of a token's hidden features after the gate
  index_t kept_size_;
  Scratch<Left> left_room_;
  Left* left_rows_;    // [1 + step][columns][left_stride]
  Scratch<C> row_;     // [C]
  Scratch<C> values_;  // [step][columns][panel columns]
  Scratch<C> kept_;    // [panel][this step's, the last one's][2][columns][panel columns]
  Scratch<C> gates_;   // [1 + step][columns][panel columns]
  Scratch<Left> hidden_room_;
  Left* hidden_rows_;           // [1 + step][tile width][hidden_stride]
  Scratch<index_t> residuals_;  // where the tokens of hidden_rows_ are in x
  Scratch<index_t> results_;    // and in out
  index_t begin_ = 0;           // rows of the step
  index_t end_ = 0;
  index_t keep_from_ = 0;  // its rows from this one on are kept for the next
  index_t kept_half_ = 0;
  index_t batch_ = 0;
  index_t column_begin_ = 0;
  index_t column_end_ = 0;
};

TRANSNEXT_END_LEVEL
