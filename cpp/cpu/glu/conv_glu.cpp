// conv_glu on the CPU. With (a, g) the halves of x, D = d_out and t the nine taps:
//
//   u[n, c]   = bias[c] + sum_t weight[c, t] a[n + offset_t, c]
//   out       = GELU(u) g
//
//   d_g       = D GELU(u)
//   d_u       = D g GELU'(u)
//   d_a[n, c] = sum_t weight[c, t] d_u[n - offset_t, c]
//   d_weight[c, t] = sum_n d_u[n, c] a[n + offset_t, c],   d_bias[c] = sum_n d_u[n, c]
//   d_x_bias = sum_n d_x
//
// Channels lie in the vector lanes. Forward (gate.h): 9 multiply-adds and a GELU of about 20
// instructions for 3 sizeof(T) bytes moved per output; a task walks down a band of rows, over few
// enough columns that the three rows it reads stay in the L2 cache.
//
// The backward recomputes u and moves 5 sizeof(T) bytes (a, g, D in, d_a and d_g out) for about 70
// instructions. A task walks down a band of rows of some channels: it computes d_u of one row, adds
// the row's terms to the weight gradients while a's tile is in cache, and computes d_a of the
// previous row from the last three rows of d_u, which stay in cache. Wide rows are split into
// segments so that they do. Regions recompute one row and column of d_u beyond each end, so bands
// are as high as the number of threads allows. Each band and segment has a partial sum of the
// weight gradients; these are added in order.
//
// x + x_bias, which Linears compute better here, costs a pass of its own, and lies in the type of the
// arithmetic, X.
#include "transnext/conv_glu.h"

#include "cpu/glu/gate.h"
#include "cpu/glu/token_bias.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/ranges.h"
#include "cpu/runtime/storage.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

// Bytes of the L2 cache that three rows may occupy.
constexpr index_t kForwardBytes = 256 * 1024;
constexpr index_t kBackwardBytes = 384 * 1024;
// More tasks than threads keep uneven cores busy until the end.
constexpr index_t kTasksPerThread = 4;
// The smallest work that is worth a task: rows of a backward's band (two more are recomputed), and
// bytes of a token (shorter runs read memory inefficiently).
constexpr index_t kBandRows = 8;
constexpr index_t kHighBandRows = 32;
constexpr index_t kSegmentColumns = 32;  // below this, a task has fewer channels instead
constexpr index_t kRunBytes = 256;
constexpr int kRing = 3;  // rows of d_u that a backward task keeps

index_t ceil_divide(index_t a, index_t b) {
  return (a + b - 1) / b;
}

// Row `row` of image `batch` of a [B, N, channels...] tensor, from channel `first` on.
template <class T>
TokenRow<T> token_row(const View<3>& tensor, Grid grid, index_t batch, index_t row, index_t first) {
  return {static_cast<T*>(tensor.data) + batch * tensor.stride[0] +
              row * grid.width * tensor.stride[1] + first * tensor.stride[2],
          tensor.stride[1], tensor.stride[2]};
}

// Row `row` of the first `channels` channels, with its neighbours.
template <class T>
RowWindow<T> row_window(const View<3>& tensor, Grid grid, index_t batch, index_t row,
                        index_t channels) {
  const TokenRow<const T> middle = token_row<const T>(tensor, grid, batch, row, 0);
  const index_t row_stride = grid.width * tensor.stride[1];
  return {row > 0 ? middle.data - row_stride : nullptr,
          middle.data,
          row + 1 < grid.height ? middle.data + row_stride : nullptr,
          tensor.stride[1],
          tensor.stride[2],
          grid.width,
          channels};
}

template <class X, class T, class C>
void forward(const ConvGluParams& p, int threads) {
  const index_t hidden = p.out.shape[2];
  const index_t batches = p.x.shape[0];
  const DepthwiseWeights<C> weights(p.weight, p.bias);
  const index_t column_bytes = 3 * hidden * static_cast<index_t>(sizeof(T));
  const index_t most_columns = larger(2 * kColumns, kForwardBytes / column_bytes);
  const index_t segments = ceil_divide(p.grid.width, most_columns);
  const index_t segment = round_up(ceil_divide(p.grid.width, segments), kColumns);
  const index_t wanted = kTasksPerThread * threads;
  const index_t bands =
      larger(1, smaller(p.grid.height, ceil_divide(wanted, larger(1, batches * segments))));
  parallel_for(batches * bands * segments, threads, [&](index_t task) {
    const index_t batch = task / (bands * segments);
    const index_t band = task / segments % bands;
    const index_t begin = task % segments * segment;
    const index_t end = smaller(begin + segment, p.grid.width);
    const index_t row_end = range_begin(band + 1, p.grid.height, bands);
    for (index_t row = range_begin(band, p.grid.height, bands); row < row_end; ++row) {
      gate_row<C>(row_window<X>(p.x, p.grid, batch, row, hidden), weights.taps(),
                  token_row<const X>(p.x, p.grid, batch, row, hidden),
                  token_row<T>(p.out, p.grid, batch, row, 0), begin, end);
    }
  });
}

// What one backward task owns: a rectangle of one image, for some channels.
struct Region {
  index_t batch;
  index_t row_begin;
  index_t row_end;
  index_t column_begin;
  index_t column_end;
  index_t channel_begin;
  index_t channels;  // a whole number of vectors
};

// A region's partial sums: for each vector of channels those of the weights' and the bias' gradients
// in the order of Taps, and of the two halves of x_bias'.
constexpr index_t kSumRows = kTapRows + 2;

template <class X, class T, class C>
class Band {
 public:
  // partial: the region's partial sums; nullptr if not wanted.
  Band(const ConvGluBackwardParams& params, const DepthwiseWeights<C>& weights,
       const DepthwiseWeights<C>& flipped, const Region& region, C* partial)
      : p_(params),
        weights_(weights),
        flipped_(flipped),
        hidden_(params.d_out.shape[2]),
        own_(region),
        block_(region.channels),
        partial_(partial),
        sums_x_(params.d_x_bias.present()),
        halo_(params.d_x.present() || sums_x_ ? 1 : 0),
        first_column_(larger(own_.column_begin - halo_, 0)),
        last_column_(smaller(own_.column_end + halo_, params.grid.width)),
        d_u_(kRing * (last_column_ - first_column_) * block_) {
    direct_ = p_.x.stride[2] == 1 && p_.d_out.stride[2] == 1 &&
              (!p_.d_x.present() || p_.d_x.stride[2] == 1);
  }

  void run() {
    const index_t last = smaller(own_.row_end + halo_, p_.grid.height);
    for (index_t row = larger(own_.row_begin - halo_, 0); row < last; ++row) {
      const bool owned = row >= own_.row_begin && row < own_.row_end;
      const index_t ends[] = {first_column_, own_.column_begin, own_.column_end, last_column_};
      for (int part = 0; part < 3; ++part)
        activation_gradient(row, ends[part], ends[part + 1], owned && part == 1);
      if (halo_ == 1 && row > own_.row_begin) input_gradient(row - 1);
    }
    if (halo_ == 1 && last == own_.row_end) input_gradient(own_.row_end - 1);
  }

 private:
  C* d_u_row(index_t row) {
    return d_u_.data() + row % kRing * (last_column_ - first_column_) * block_;
  }

  // Calls tile(columns, direct, column, channel) for the tiles of columns [begin, end), looping
  // over channels inside.
  template <class Tile>
  void for_each_tile_and_channel(index_t begin_column, index_t end_column, Tile&& tile) {
    for_each_tile(begin_column, end_column, [&](auto count, index_t column) {
      const index_t end = own_.channel_begin + block_;
      index_t c = own_.channel_begin;
      if (direct_) {
        for (; c < end && c + kLanes<C> <= hidden_; c += kLanes<C>)
          tile(count, Flag<true>{}, column, c);
      }
      for (; c < end; c += kLanes<C>) {
        for (int i = 0; i < decltype(count)::kValue; ++i)
          tile(Count<1>{}, Flag<false>{}, column + i, c);
      }
    });
  }

  // d_u of part of a row; if the task owns it, also d_g and its terms of the weight gradients.
  void activation_gradient(index_t row, index_t begin, index_t end, bool owned) {
    const RowWindow<X> a = row_window<X>(p_.x, p_.grid, own_.batch, row, hidden_);
    const auto gate = token_row<const X>(p_.x, p_.grid, own_.batch, row, hidden_);
    const auto d_out = token_row<const T>(p_.d_out, p_.grid, own_.batch, row, 0);
    const bool need_gate = owned && p_.d_x.present();
    const auto d_gate =
        need_gate ? token_row<T>(p_.d_x, p_.grid, own_.batch, row, hidden_) : TokenRow<T>{};
    const bool need_sums = owned && partial_ != nullptr;
    C* d_u = d_u_row(row);
    for_each_tile_and_channel(begin, end, [&](auto count, auto flag, index_t column, index_t c) {
      constexpr int kCount = decltype(count)::kValue;
      constexpr bool kDirect = decltype(flag)::kValue;
      Vector<C> u[kCount];
      convolve<C, kCount, kDirect>(a, column, c, weights_.taps(), c, u);
      Vector<C> value[kCount];
      Vector<C> slope[kCount];
      gelu<C>(u, value, slope);
      Vector<C> d_gates{};
      for (int i = 0; i < kCount; ++i) {
        const index_t at = column + i;
        const auto factor = load_channels<C, kDirect>(gate.data + at * gate.column_stride,
                                                      gate.channel_stride, c, hidden_);
        const auto gradient = load_channels<C, kDirect>(d_out.data + at * d_out.column_stride,
                                                        d_out.channel_stride, c, hidden_);
        u[i] = gradient * factor * slope[i];  // now d_u
        store(d_u + (at - first_column_) * block_ + (c - own_.channel_begin), u[i]);
        if (need_gate) {
          store_channels<C, kDirect>(d_gate.data + at * d_gate.column_stride, d_gate.channel_stride,
                                     c, hidden_, gradient * value[i]);
        }
        d_gates += gradient * value[i];
      }
      if (!need_sums) return;
      add_weight_gradient<kCount, kDirect>(a, column, c, u);
      if (sums_x_) add_to_sum(c, kTapRows + 1, d_gates);
    });
  }

  void add_to_sum(index_t channel, index_t row, Vector<C> added) {
    C* sum = partial_ + kSumRows * channel + row * kLanes<C>;
    store(sum, load<Vector<C>>(sum) + added);
  }

  template <int kCount, bool kDirect>
  void add_weight_gradient(const RowWindow<X>& a, index_t column, index_t c,
                           const Vector<C> (&d_u)[kCount]) {
    C* sums = partial_ + kSumRows * c;
    Vector<C> bias{};
    for (int i = 0; i < kCount; ++i) bias += d_u[i];
    add_to_sum(c, kTaps, bias);
    for_each_row<C, kCount, kDirect>(a, column, c, [&](int dy, const Vector<C>* x) {
      for (int dx = 0; dx < 3; ++dx) {
        C* sum = sums + (3 * dy + dx) * kLanes<C>;
        auto tap = load<Vector<C>>(sum);
        for (int i = 0; i < kCount; ++i) tap += d_u[i] * x[i + dx];
        store(sum, tap);
      }
    });
  }

  void input_gradient(index_t row) {
    const RowWindow<C> d_u{row > 0 ? d_u_row(row - 1) : nullptr,
                           d_u_row(row),
                           row + 1 < p_.grid.height ? d_u_row(row + 1) : nullptr,
                           block_,
                           1,
                           last_column_ - first_column_,
                           block_};
    const bool writes = p_.d_x.present();
    const auto d_a = writes ? token_row<T>(p_.d_x, p_.grid, own_.batch, row, 0) : TokenRow<T>{};
    for_each_tile_and_channel(
        own_.column_begin, own_.column_end, [&](auto count, auto flag, index_t column, index_t c) {
          constexpr int kCount = decltype(count)::kValue;
          Vector<C> sum[kCount];
          convolve<C, kCount, true>(d_u, column - first_column_, c - own_.channel_begin,
                                    flipped_.taps(), c, sum);
          for (int i = 0; i < kCount && writes; ++i) {
            store_channels<C, decltype(flag)::kValue>(d_a.data + (column + i) * d_a.column_stride,
                                                      d_a.channel_stride, c, hidden_, sum[i]);
          }
          if (!sums_x_) return;
          for (int i = 1; i < kCount; ++i) sum[0] += sum[i];
          add_to_sum(c, kTapRows, sum[0]);
        });
  }

  const ConvGluBackwardParams& p_;
  const DepthwiseWeights<C>& weights_;
  const DepthwiseWeights<C>& flipped_;
  index_t hidden_;
  Region own_;
  index_t block_;
  C* partial_;
  bool sums_x_;
  index_t halo_;  // d_a needs d_u this far beyond the region
  index_t first_column_;
  index_t last_column_;
  Scratch<C> d_u_;  // [kRing][first to last column][block]
  bool direct_;
};

// Writes the sums of the bands' partial sums.
template <class C>
void add_partials(const ConvGluBackwardParams& p, const Scratch<C>& partials, index_t groups,
                  index_t padded) {
  const index_t hidden = p.d_out.shape[2];
  Scratch<C> sum(kLanes<C>);
  const View<4>& d = p.d_weight;
  for (index_t c = 0; c < hidden; c += kLanes<C>) {
    for (int t = 0; t < kSumRows; ++t) {
      Vector<C> total{};
      for (index_t group = 0; group < groups; ++group)
        total += load<Vector<C>>(partials.data() + kSumRows * (group * padded + c) + t * kLanes<C>);
      store(sum.data(), total);
      for (index_t lane = 0; lane < smaller(kLanes<C>, hidden - c); ++lane) {
        const index_t channel = c + lane;
        C* to = nullptr;
        if (t < kTaps && d.present()) {
          to = static_cast<C*>(d.data) + channel * d.stride[0] + (t / 3) * d.stride[2] +
               (t % 3) * d.stride[3];
        } else if (t == kTaps && p.d_bias.present()) {
          to = static_cast<C*>(p.d_bias.data) + channel * p.d_bias.stride[0];
        } else if (t > kTaps && p.d_x_bias.present()) {
          to = static_cast<C*>(p.d_x_bias.data) +
               (channel + (t - kTapRows) * hidden) * p.d_x_bias.stride[0];
        }
        if (to != nullptr) *to = sum[lane];
      }
    }
  }
}

template <class X, class T, class C>
void backward(const ConvGluBackwardParams& p, int threads) {
  const index_t batches = p.x.shape[0];
  const DepthwiseWeights<C> weights(p.weight, p.bias);
  const DepthwiseWeights<C> flipped(p.weight, {}, true);
  const index_t padded = weights.padded_channels();
  const index_t wanted = kTasksPerThread * threads;
  const index_t most = kBackwardBytes / (kRing * static_cast<index_t>(sizeof(C)));  // per row
  index_t blocks = ceil_divide(padded * smaller(p.grid.width, kSegmentColumns), most);
  const index_t most_columns =
      larger(kColumns, most / round_up(ceil_divide(padded, blocks), kLanes<C>));
  index_t segments = ceil_divide(p.grid.width, most_columns);
  const index_t segment = round_up(ceil_divide(p.grid.width, segments), kColumns);
  segments = ceil_divide(p.grid.width, segment);
  // To get enough tasks, first split into high bands of rows, which recompute little and read
  // memory in long runs, then into blocks of channels, which recompute nothing, then into lower
  // bands.
  index_t bands = larger(
      1, smaller(p.grid.height / kHighBandRows, wanted / larger(1, batches * segments * blocks)));
  const index_t run = larger(kLanes<C>, kRunBytes / static_cast<index_t>(sizeof(T)));
  blocks = larger(
      blocks, smaller(ceil_divide(padded, run), wanted / larger(1, batches * segments * bands)));
  const index_t block = round_up(ceil_divide(padded, blocks), kLanes<C>);
  blocks = ceil_divide(padded, block);
  bands = larger(
      bands, smaller(p.grid.height / kBandRows, wanted / larger(1, batches * segments * blocks)));

  const bool need_sums = p.d_weight.present() || p.d_bias.present() || p.d_x_bias.present();
  const index_t groups = batches * bands * segments;
  const index_t size = kSumRows * padded;
  Scratch<C> partials(need_sums ? groups * size : 0);
  partials.zero();
  parallel_for(groups * blocks, threads, [&](index_t task) {
    const index_t group = task / blocks;
    const index_t band = group / segments % bands;
    Region region;
    region.batch = group / (bands * segments);
    region.row_begin = range_begin(band, p.grid.height, bands);
    region.row_end = range_begin(band + 1, p.grid.height, bands);
    region.column_begin = group % segments * segment;
    region.column_end = smaller(region.column_begin + segment, p.grid.width);
    region.channel_begin = task % blocks * block;
    region.channels = smaller(block, padded - region.channel_begin);
    Band<X, T, C>(p, weights, flipped, region, need_sums ? &partials[group * size] : nullptr).run();
  });
  if (need_sums) add_partials(p, partials, groups, padded);
}

// Calls run(params, Storage<X>{}) with x_bias added to the parameters' x.
template <class T, class C, class Params, class Run>
void with_bias_added(Params params, int threads, const Run& run) {
  if (!params.x_bias.present()) return run(params, Storage<T>{});
  const BiasedTokens<T, C> biased(params.x, params.x_bias, threads);
  params.x = biased.view();
  run(params, Storage<C>{});
}

}  // namespace

void conv_glu(const ConvGluParams& params, int threads) {
  with_kernel_storage(params.x.dtype, [&](auto storage) {
    using T = typename decltype(storage)::Type;
    using C = typename decltype(storage)::Compute;
    with_bias_added<T, C>(params, threads, [&](const ConvGluParams& p, auto x) {
      forward<typename decltype(x)::Type, T, C>(p, threads);
    });
  });
}

void conv_glu_backward(const ConvGluBackwardParams& params, int threads) {
  with_kernel_storage(params.x.dtype, [&](auto storage) {
    using T = typename decltype(storage)::Type;
    using C = typename decltype(storage)::Compute;
    with_bias_added<T, C>(params, threads, [&](const ConvGluBackwardParams& p, auto x) {
      backward<typename decltype(x)::Type, T, C>(p, threads);
    });
  });
}

TRANSNEXT_END_LEVEL
