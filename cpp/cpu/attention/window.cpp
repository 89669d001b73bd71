// window_qk and window_av on the CPU, on head-major tensors [B, h, N, d] and [B, h, N, L].
//
// Both operators and their gradients consist of three products over the window:
//
//   correlate   s_j(n)  = sum_c a_c(n) b_c(n + offset_j)
//               attn from q, k;  d_attn from d_out, v
//   gather      o_c(n)  = sum_j w_j(n) b_c(n + offset_j)
//               out from attn, v;  d_q from d_attn, k
//   scatter     o_c(n') = sum_j w_j(n' - offset_j) a_c(n' - offset_j)
//               d_v from attn, d_out;  d_k from d_attn, q
//
// The scatter is computed as a sum over the queries that see n', so every output has one owner.
// Tokens lie in the lanes (window_cells.h). Per query and head each is 2 d L flops for (2 d + L)
// sizeof(T) bytes: at d = 24, L = 9, 432 flops for 228 bytes of float32.
#include "transnext/window.h"

#include "cpu/attention/window_cells.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

// Calls run(batch, head, first token, tokens) for every token tile of every image and head.
template <class C, class Run>
void for_each_token_tile(const View<4>& tensor, const Window& window, index_t panel_channels,
                         int threads, Run&& run) {
  const index_t tokens = window.grid.size();
  const index_t length = token_tile_tokens<C>(window, panel_channels, 2);
  const index_t token_tiles = (tokens + length - 1) / length;
  const index_t heads = tensor.shape[1];
  parallel_for(tensor.shape[0] * heads * token_tiles, threads, [&](index_t task) {
    const index_t pair = task / token_tiles;
    const index_t first = task % token_tiles * length;
    run(pair / heads, pair % heads, first, smaller(length, tokens - first));
  });
}

// A panel, with its memory, of all tokens that a token tile needs.
template <class C>
class TokenTilePanel {
 public:
  TokenTilePanel(const TokenView& view, const Window& window, index_t first, index_t count,
                 index_t halo)
      : stride_(round_up(count + 2 * halo, kBlock<C>) + kBlock<C>),
        memory_(view.channels * stride_),
        panel_{memory_.data(), stride_, first - halo} {
    load_panel(view, window.grid.size(), panel_, 0, stride_);
  }
  const C* at(index_t token) const { return panel_.at(token); }
  index_t stride() const { return stride_; }

 private:
  index_t stride_;
  Scratch<C> memory_;
  Panel<C> panel_;
};

template <class C>
void fill(Scratch<C>& target, C value) {
  for (index_t i = 0; i < target.size(); ++i) target[i] = value;
}

// scores(n, j) = a(n) . b(n + offset_j) + bias[j], `outside` for cells outside the image.
template <class C>
void window_correlate(const View<4>& a, const View<4>& b, const View<2>& bias,
                      const View<4>& scores, const Window& window, C outside, int threads) {
  const index_t channels = a.shape[3];
  for_each_token_tile<C>(
      a, window, 2 * channels, threads,
      [&](index_t batch, index_t head, index_t first, index_t count) {
        const TokenTilePanel<C> left(head_major(a, batch, head), window, first, count, 0);
        const TokenTilePanel<C> right(head_major(b, batch, head), window, first, count,
                                      window.halo());
        Scratch<Cell<C>> cells(window.cells());
        Scratch<C> products(window.cells() * kBlock<C>);
        Scratch<C> block(window.cells() * kBlock<C>);
        for (index_t i = first; i < first + count; i += kBlock<C>) {
          const index_t tokens = smaller(kBlock<C>, first + count - i);
          const index_t active = active_cells(window, i, tokens, Direction::kToCells, cells.data());
          correlate(channels, left.at(i), left.stride(), right.at(i), right.stride(), cells.data(),
                    active, tokens, products.data());
          fill(block, outside);
          for (index_t cell = 0; cell < active; ++cell) {
            const index_t j = cells[cell].index;
            const C shift =
                bias.present()
                    ? static_cast<const C*>(bias.data)[head * bias.stride[0] + j * bias.stride[1]]
                    : C(0);
            for (int v = 0; v < 2; ++v) {
              const index_t at = j * kBlock<C> + v * kLanes<C>;
              const auto score = load<Vector<C>>(&products[at]) + shift;
              store(&block[at], select<C>(cells[cell].valid[v], score, broadcast<C>(outside)));
            }
          }
          store_block<C>(head_major(scores, batch, head), i, tokens, block.data(), kBlock<C>);
        }
      });
}

// To cells: out(n) = sum over j of weights(n, j) values(n + offset_j). To queries, its transpose:
// out(n') = sum over j of weights(n' - offset_j, j) values(n' - offset_j).
template <class C, Direction kDirection>
void window_gather(const View<4>& weights, const View<4>& values, const View<4>& out,
                   const Window& window, int threads) {
  constexpr bool kToQueries = kDirection == Direction::kToQueries;
  const index_t channels = values.shape[3];
  for_each_token_tile<C>(
      values, window, channels + window.cells(), threads,
      [&](index_t batch, index_t head, index_t first, index_t count) {
        const TokenTilePanel<C> weight(head_major(weights, batch, head), window, first, count,
                                       kToQueries ? window.halo() : 0);
        const TokenTilePanel<C> value(head_major(values, batch, head), window, first, count,
                                      window.halo());
        Scratch<Cell<C>> cells(window.cells());
        Scratch<C> block(channels * kBlock<C>);
        for (index_t i = first; i < first + count; i += kBlock<C>) {
          const index_t tokens = smaller(kBlock<C>, first + count - i);
          const index_t active = active_cells(window, i, tokens, kDirection, cells.data());
          gather<kToQueries>(channels, cells.data(), active, tokens, weight.at(i), weight.stride(),
                             value.at(i), value.stride(), static_cast<const C*>(nullptr),
                             block.data(), kBlock<C>);
          store_block<C>(head_major(out, batch, head), i, tokens, block.data(), kBlock<C>);
        }
      });
}

// d_bias[head, j] = sum of d_attn over images and queries whose cell j lies inside: first per
// image, then over images.
template <class C>
void bias_gradient(const View<4>& d_attn, const View<2>& d_bias, const Window& window,
                   int threads) {
  const index_t batches = d_attn.shape[0];
  const index_t heads = d_attn.shape[1];
  const index_t tokens = window.grid.size();
  Scratch<C> partial(batches * heads * window.cells());
  partial.zero();
  parallel_for(batches * heads, threads, [&](index_t pair) {
    Scratch<Cell<C>> cells(window.cells());
    Scratch<C> block(window.cells() * kBlock<C>);
    for (index_t first = 0; first < tokens; first += kBlock<C>) {
      const index_t count = smaller(kBlock<C>, tokens - first);
      load_block<C>(head_major(d_attn, pair / heads, pair % heads), first, 0, count, block.data(),
                    kBlock<C>);
      const index_t active = active_cells(window, first, count, Direction::kToCells, cells.data());
      for (index_t i = 0; i < active; ++i) {
        const C* gradient = &block[cells[i].index * kBlock<C>];
        Vector<C> sum{};
        for (int v = 0; v < 2; ++v)
          sum +=
              select<C>(cells[i].valid[v], load<Vector<C>>(gradient + v * kLanes<C>), Vector<C>{});
        partial[pair * window.cells() + cells[i].index] += sum_lanes<C>(sum);
      }
    }
  });
  for (index_t head = 0; head < heads; ++head) {
    for (index_t j = 0; j < window.cells(); ++j) {
      C sum = 0;
      for (index_t batch = 0; batch < batches; ++batch)
        sum += partial[(batch * heads + head) * window.cells() + j];
      static_cast<C*>(d_bias.data)[head * d_bias.stride[0] + j * d_bias.stride[1]] = sum;
    }
  }
}

}  // namespace

void window_qk(const WindowQkParams& p, int threads) {
  with_compute(p.q.dtype, [&](auto zero) {
    using C = decltype(zero);
    window_correlate<C>(p.q, p.k, p.bias, p.attn, {p.grid, p.window_size},
                        -static_cast<C>(__builtin_huge_val()), threads);
  });
}

void window_qk_backward(const WindowQkBackwardParams& p, int threads) {
  const Window window{p.grid, p.window_size};
  with_compute(p.q.dtype, [&](auto zero) {
    using C = decltype(zero);
    if (p.d_q.present())
      window_gather<C, Direction::kToCells>(p.d_attn, p.k, p.d_q, window, threads);
    if (p.d_k.present())
      window_gather<C, Direction::kToQueries>(p.d_attn, p.q, p.d_k, window, threads);
    if (p.d_bias.present()) bias_gradient<C>(p.d_attn, p.d_bias, window, threads);
  });
}

void window_av(const WindowAvParams& p, int threads) {
  with_compute(p.v.dtype, [&](auto zero) {
    window_gather<decltype(zero), Direction::kToCells>(p.attn, p.v, p.out, {p.grid, p.window_size},
                                                       threads);
  });
}

void window_av_backward(const WindowAvBackwardParams& p, int threads) {
  const Window window{p.grid, p.window_size};
  with_compute(p.v.dtype, [&](auto zero) {
    using C = decltype(zero);
    if (p.d_attn.present())
      window_correlate<C>(p.d_out, p.v, View<2>{}, p.d_attn, window, C(0), threads);
    if (p.d_v.present())
      window_gather<C, Direction::kToQueries>(p.attn, p.d_out, p.d_v, window, threads);
  });
}

TRANSNEXT_END_LEVEL
