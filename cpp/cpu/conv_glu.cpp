// conv_glu on the CPU. With (a, g) the halves of x, D = d_out and t the nine taps:
//
//   u[n, c]   = bias[c] + sum_t weight[c, t] a[n + offset_t, c]
//   out       = GELU(u) g
//
//   d_g       = D GELU(u)
//   d_u       = D g GELU'(u)
//   d_a[n, c] = sum_t weight[c, t] d_u[n - offset_t, c]
//   d_weight[c, t] = sum_n d_u[n, c] a[n + offset_t, c],   d_bias[c] = sum_n d_u[n, c]
//
// Channels lie in the vector lanes. Forward: 9 products and a GELU (about 60 flops) for 3 sizeof(T)
// bytes moved per output (a, g, out; a's neighbours come from cache). The backward recomputes u
// instead of having saved it: a task owns a band of rows of one image and some channels, computes
// d_u there and one row beyond, and gathers d_a from it. Weight gradients are one partial sum per
// band, added in the bands' order.
#include "transnext/conv_glu.h"

#include "cpu/convert.h"
#include "cpu/depthwise.h"
#include "cpu/kernels.h"
#include "cpu/math.h"
#include "cpu/scratch.h"
#include "cpu/storage.h"
#include "cpu/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr int kTaps = 9;
constexpr index_t kBandRows = 8;  // owned rows of a backward task: two more are recomputed
constexpr index_t kBandBytes = 128 * 1024;  // aim for its d_u, so that it stays in the L2 cache
constexpr index_t kMaxBandVectors = 8;

// The weights tap-major and the bias, padded with zeros to whole vectors.
template <class C>
class Weights {
 public:
  Weights(const View<4>& weight, const View<1>& bias)
      : channels_(weight.shape[0]),
        padded_(round_up(channels_, kLanes<C>)),
        taps_((kTaps + 1) * padded_),
        flipped_(kTaps * padded_) {
    taps_.zero();
    flipped_.zero();
    for (index_t c = 0; c < channels_; ++c) {
      for (int t = 0; t < kTaps; ++t) {
        const C value =
            static_cast<const C*>(weight.data)[c * weight.stride[0] + (t / 3) * weight.stride[2] +
                                               (t % 3) * weight.stride[3]];
        taps_[t * padded_ + c] = value;
        flipped_[(kTaps - 1 - t) * padded_ + c] = value;
      }
      if (bias.present())
        taps_[kTaps * padded_ + c] = static_cast<const C*>(bias.data)[c * bias.stride[0]];
    }
  }

  index_t padded_channels() const { return padded_; }
  Taps<C> taps() const { return {taps_.data(), padded_}; }
  Taps<C> flipped() const { return {flipped_.data(), padded_}; }
  Vector<C> bias(index_t c) const { return load<Vector<C>>(taps_.data() + kTaps * padded_ + c); }

 private:
  index_t channels_;
  index_t padded_;
  Scratch<C> taps_;
  Scratch<C> flipped_;
};

// Image `batch` of a [B, N, channels...] tensor, `channels` of it from channel `first` on.
template <class T>
Rows<T> image_rows(const View<3>& tensor, Grid grid, index_t batch, index_t first,
                   index_t channels) {
  return {static_cast<const T*>(tensor.data) + batch * tensor.stride[0] + first * tensor.stride[2],
          0,
          grid.width * tensor.stride[1],
          tensor.stride[1],
          tensor.stride[2],
          channels};
}

template <class T>
const T* token(const Rows<T>& rows, index_t row, index_t column) {
  return rows.data + (row - rows.first_row) * rows.row_stride + column * rows.column_stride;
}

template <class T, class C>
void forward_row(const ConvGluParams& p, const Weights<C>& weights, index_t batch, index_t row) {
  const index_t hidden = p.out.shape[2];
  const Rows<T> a = image_rows<T>(p.x, p.grid, batch, 0, hidden);
  const Rows<T> g = image_rows<T>(p.x, p.grid, batch, hidden, hidden);
  T* out =
      static_cast<T*>(p.out.data) + batch * p.out.stride[0] + row * p.grid.width * p.out.stride[1];
  for (index_t column = 0; column < p.grid.width; column += kColumns) {
    const index_t columns = smaller(kColumns, p.grid.width - column);
    for (index_t c = 0; c < hidden; c += kLanes<C>) {
      Vector<C> u[kColumns];
      for (auto& sum : u) sum = weights.bias(c);
      convolve<C>(a, p.grid, row, column, c, weights.taps(), c, u);
      for (index_t i = 0; i < columns; ++i) {
        const Vector<C> gate =
            load_lanes<C>(token(g, row, column + i), g.channel_stride, c, hidden);
        store_lanes<C>(out + (column + i) * p.out.stride[1], p.out.stride[2], c, hidden,
                       gelu(u[i]).value * gate);
      }
    }
  }
}

// One backward task: a band of rows of one image, some channels.
struct Band {
  index_t batch;
  index_t row_begin;
  index_t row_end;
  index_t channel_begin;
  index_t channel_end;
};

// Fills d_u for the band and the rows next to it; writes d_g for the band itself.
template <class T, class C>
void activation_gradient(const ConvGluBackwardParams& p, const Weights<C>& weights,
                         const Band& band, index_t first_row, index_t last_row, C* d_u,
                         index_t width) {
  const index_t hidden = p.d_out.shape[2];
  const Rows<T> a = image_rows<T>(p.x, p.grid, band.batch, 0, hidden);
  const Rows<T> g = image_rows<T>(p.x, p.grid, band.batch, hidden, hidden);
  const Rows<T> d_out = image_rows<T>(p.d_out, p.grid, band.batch, 0, hidden);
  for (index_t row = first_row; row < last_row; ++row) {
    const bool owned = row >= band.row_begin && row < band.row_end;
    for (index_t column = 0; column < p.grid.width; column += kColumns) {
      const index_t columns = smaller(kColumns, p.grid.width - column);
      for (index_t c = band.channel_begin; c < band.channel_end; c += kLanes<C>) {
        Vector<C> u[kColumns];
        for (auto& sum : u) sum = weights.bias(c);
        convolve<C>(a, p.grid, row, column, c, weights.taps(), c, u);
        for (index_t i = 0; i < columns; ++i) {
          const index_t at = column + i;
          const Gelu<C> activation = gelu(u[i]);
          const Vector<C> gate = load_lanes<C>(token(g, row, at), g.channel_stride, c, hidden);
          const Vector<C> gradient =
              load_lanes<C>(token(d_out, row, at), d_out.channel_stride, c, hidden);
          store(d_u + ((row - first_row) * p.grid.width + at) * width + (c - band.channel_begin),
                gradient * gate * activation.slope);
          if (owned && p.d_x.present()) {
            T* d_g = static_cast<T*>(p.d_x.data) + band.batch * p.d_x.stride[0] +
                     (row * p.grid.width + at) * p.d_x.stride[1] + hidden * p.d_x.stride[2];
            store_lanes<C>(d_g, p.d_x.stride[2], c, hidden, gradient * activation.value);
          }
        }
      }
    }
  }
}

template <class T, class C>
void input_gradient(const ConvGluBackwardParams& p, const Weights<C>& weights, const Band& band,
                    const Rows<C>& d_u) {
  const index_t hidden = p.d_out.shape[2];
  for (index_t row = band.row_begin; row < band.row_end; ++row) {
    for (index_t column = 0; column < p.grid.width; column += kColumns) {
      const index_t columns = smaller(kColumns, p.grid.width - column);
      for (index_t c = band.channel_begin; c < band.channel_end; c += kLanes<C>) {
        Vector<C> sum[kColumns] = {};
        convolve<C>(d_u, p.grid, row, column, c - band.channel_begin, weights.flipped(), c, sum);
        for (index_t i = 0; i < columns; ++i) {
          T* d_a = static_cast<T*>(p.d_x.data) + band.batch * p.d_x.stride[0] +
                   (row * p.grid.width + column + i) * p.d_x.stride[1];
          store_lanes<C>(d_a, p.d_x.stride[2], c, hidden, sum[i]);
        }
      }
    }
  }
}

// The band's share of d_weight (taps 0..8) and d_bias (9), [10][padded channels].
template <class T, class C>
void weight_gradient(const ConvGluBackwardParams& p, const Band& band, const Rows<C>& d_u,
                     C* partial, index_t padded_channels) {
  const index_t hidden = p.d_out.shape[2];
  const Rows<T> a = image_rows<T>(p.x, p.grid, band.batch, 0, hidden);
  for (index_t c = band.channel_begin; c < band.channel_end; c += kLanes<C>) {
    Vector<C> sum[kTaps + 1] = {};
    for (index_t row = band.row_begin; row < band.row_end; ++row) {
      for (index_t column = 0; column < p.grid.width; ++column) {
        const auto gradient = load<Vector<C>>(token(d_u, row, column) + c - band.channel_begin);
        sum[kTaps] += gradient;
        for (int t = 0; t < kTaps; ++t) {
          const index_t y = row + t / 3 - 1;
          const index_t x = column + t % 3 - 1;
          if (y < 0 || y >= p.grid.height || x < 0 || x >= p.grid.width) continue;
          sum[t] += gradient * load_lanes<C>(token(a, y, x), a.channel_stride, c, hidden);
        }
      }
    }
    for (int t = 0; t <= kTaps; ++t) store(partial + t * padded_channels + c, sum[t]);
  }
}

template <class T, class C>
void backward(const ConvGluBackwardParams& p, int threads) {
  const index_t hidden = p.d_out.shape[2];
  const index_t batches = p.x.shape[0];
  const Weights<C> weights(p.weight, p.bias);
  const index_t padded = weights.padded_channels();
  const index_t bands = (p.grid.height + kBandRows - 1) / kBandRows;
  const index_t row_bytes = (kBandRows + 2) * p.grid.width * kVectorBytes;
  const index_t vectors = larger(1, smaller(kMaxBandVectors, kBandBytes / row_bytes));
  const index_t block = vectors * kLanes<C>;
  const index_t blocks = (padded + block - 1) / block;
  const bool need_weights = p.d_weight.present() || p.d_bias.present();
  Scratch<C> partials(need_weights ? batches * bands * (kTaps + 1) * padded : 0);

  parallel_for(batches * bands * blocks, threads, [&](index_t task) {
    const index_t group = task / blocks;  // (batch, band)
    Band band;
    band.batch = group / bands;
    band.row_begin = group % bands * kBandRows;
    band.row_end = smaller(band.row_begin + kBandRows, p.grid.height);
    band.channel_begin = task % blocks * block;
    band.channel_end = smaller(band.channel_begin + block, padded);
    const index_t first_row = larger(band.row_begin - 1, 0);
    const index_t last_row = smaller(band.row_end + 1, p.grid.height);
    Scratch<C> d_u((last_row - first_row) * p.grid.width * block);
    activation_gradient<T>(p, weights, band, first_row, last_row, d_u.data(), block);
    const Rows<C> rows{d_u.data(), first_row, p.grid.width * block, block, 1, block};
    if (p.d_x.present()) input_gradient<T>(p, weights, band, rows);
    if (need_weights)
      weight_gradient<T>(p, band, rows, &partials[group * (kTaps + 1) * padded], padded);
  });

  if (!need_weights) return;
  parallel_for(blocks, threads, [&](index_t task) {
    for (index_t c = task * block; c < smaller((task + 1) * block, hidden); ++c) {
      for (int t = 0; t <= kTaps; ++t) {
        C sum = 0;
        for (index_t group = 0; group < batches * bands; ++group)
          sum += partials[(group * (kTaps + 1) + t) * padded + c];
        if (t == kTaps) {
          if (p.d_bias.present()) static_cast<C*>(p.d_bias.data)[c * p.d_bias.stride[0]] = sum;
        } else if (p.d_weight.present()) {
          static_cast<C*>(
              p.d_weight.data)[c * p.d_weight.stride[0] + (t / 3) * p.d_weight.stride[2] +
                               (t % 3) * p.d_weight.stride[3]] = sum;
        }
      }
    }
  });
}

}  // namespace

void conv_glu(const ConvGluParams& params, int threads) {
  with_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    using C = typename S::Compute;
    const Weights<C> weights(params.weight, params.bias);
    const index_t rows = params.grid.height;
    parallel_for(params.x.shape[0] * rows, threads, [&](index_t task) {
      forward_row<typename S::Type, C>(params, weights, task / rows, task % rows);
    });
  });
}

void conv_glu_backward(const ConvGluBackwardParams& params, int threads) {
  with_storage(params.x.dtype, [&](auto storage) {
    using S = decltype(storage);
    backward<typename S::Type, typename S::Compute>(params, threads);
  });
}

TRANSNEXT_END_LEVEL
