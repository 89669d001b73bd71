// Loads and stores tokens of one image and head, between tensors and the attention kernels'
// layouts:
//   rows    [tokens][padded channels], channels in the lanes;
//   panels  [channels][tokens], tokens in the lanes, a block of them at a time.
#pragma once

#include "cpu/runtime/storage.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/transpose.h"
#include "cpu/simd/transpose_4x4.h"

TRANSNEXT_BEGIN_LEVEL

// Tokens are handled in blocks of two vectors, the width of a tile of cpu/gemm/small_gemm.h.
template <class C>
constexpr index_t kBlock = 2 * kLanes<C>;

struct TokenView {
  void* data;
  DType dtype;
  index_t token_stride;
  index_t channel_stride;
  index_t channels;
};

// Tokens of a [B, N, h, channels] tensor.
inline TokenView token_major(const View<4>& tensor, index_t batch, index_t head) {
  const index_t offset = batch * tensor.stride[0] + head * tensor.stride[2];
  return {static_cast<char*>(tensor.data) + offset * element_size(tensor.dtype), tensor.dtype,
          tensor.stride[1], tensor.stride[3], tensor.shape[3]};
}

// Tokens of a [B, h, N, channels] tensor.
inline TokenView head_major(const View<4>& tensor, index_t batch, index_t head) {
  const index_t offset = batch * tensor.stride[0] + head * tensor.stride[1];
  return {static_cast<char*>(tensor.data) + offset * element_size(tensor.dtype), tensor.dtype,
          tensor.stride[2], tensor.stride[3], tensor.shape[3]};
}

// Whether vectors of these tokens can be loaded by 4x4 transposes (cpu/simd/transpose_4x4.h).
template <class C>
inline bool in_4x4_blocks(const TokenView& view) {
#if defined(__AVX512F__)
  return sizeof(C) == 4 && view.channel_stride == 1 && view.channels % kQuad == 0;
#else
  (void)view;
  return false;
#endif
}

template <class C, class T>
inline void load_block_as(const T* tokens, const TokenView& view, index_t begin, index_t end,
                          C* panel, index_t stride) {
  constexpr int n = kLanes<C>;
  Vector<C> square[n];
  for (index_t v = 0; v < 2; ++v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(C) == 4) {
      if (in_4x4_blocks<C>(view)) {
        const T* from = tokens + v * n * view.token_stride;
        if (begin <= v * n && (v + 1) * n <= end) {
          load_transposed_4x4(from, view.token_stride, view.channels, panel + v * n, stride);
        } else {
          load_some_transposed_4x4(from, view.token_stride, begin - v * n, end - v * n,
                                   view.channels, panel + v * n, stride);
        }
        continue;
      }
    }
#endif
    for (index_t c = 0; c < view.channels; c += n) {
      const index_t rest = view.channels - c;
      if (begin <= v * n && (v + 1) * n <= end && rest >= n && view.channel_stride == 1) {
        for (int i = 0; i < n; ++i)
          square[i] = load_vector<C>(tokens + (v * n + i) * view.token_stride + c);
        transpose_square<C>(square);
        for (int i = 0; i < n; ++i) store(panel + (c + i) * stride + v * n, square[i]);
        continue;
      }
      for (int i = 0; i < n; ++i) {
        const index_t lane = v * n + i;
        square[i] = Vector<C>{};
        if (lane >= begin && lane < end)
          square[i] = load_lanes<C>(tokens + lane * view.token_stride, view.channel_stride, c,
                                    view.channels);
      }
      transpose_square<C>(square);
      for (int i = 0; i < smaller(n, rest); ++i) store(panel + (c + i) * stride + v * n, square[i]);
    }
  }
}

// panel[c * stride + lane] = channel c of token first + lane for begin <= lane < end, zero for the
// block's other lanes. Only tokens begin .. end - 1 are read.
template <class C>
inline void load_block(const TokenView& view, index_t first, index_t begin, index_t end, C* panel,
                       index_t stride) {
  with_storage(view.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = typename S::Type;
    if constexpr (std::is_same_v<typename S::Compute, C>)
      load_block_as<C>(static_cast<const T*>(view.data) + first * view.token_stride, view, begin,
                       end, panel, stride);
  });
}

template <class C, class T>
inline void store_block_as(T* tokens, const TokenView& view, index_t count, const C* panel,
                           index_t stride) {
  constexpr int n = kLanes<C>;
  Vector<C> square[n];
  for (index_t v = 0; v * n < count && v < 2; ++v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(C) == 4) {
      if (in_4x4_blocks<C>(view)) {
        T* to = tokens + v * n * view.token_stride;
        if ((v + 1) * n <= count) {
          store_transposed_4x4(panel + v * n, stride, view.channels, to, view.token_stride);
        } else {
          store_transposed_4x4(panel + v * n, stride, view.channels, to, view.token_stride,
                               count - v * n);
        }
        continue;
      }
    }
#endif
    for (index_t c = 0; c < view.channels; c += n) {
      const index_t rest = view.channels - c;
      for (int i = 0; i < n; ++i)
        square[i] = i < rest ? load<Vector<C>>(panel + (c + i) * stride + v * n) : Vector<C>{};
      transpose_square<C>(square);
      for (int i = 0; i < smaller(n, count - v * n); ++i)
        store_lanes<C>(tokens + (v * n + i) * view.token_stride, view.channel_stride, c,
                       view.channels, square[i]);
    }
  }
}

// The reverse, for the first `count` lanes.
template <class C>
inline void store_block(const TokenView& view, index_t first, index_t count, const C* panel,
                        index_t stride) {
  with_storage(view.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = typename S::Type;
    if constexpr (std::is_same_v<typename S::Compute, C>)
      store_block_as<C>(static_cast<T*>(view.data) + first * view.token_stride, view, count, panel,
                        stride);
  });
}

// Rows of the compute type as tokens, for load_block and store_block.
template <class C>
inline TokenView row_tokens(C* rows, index_t width, index_t channels) {
  return {rows, sizeof(C) == 8 ? DType::kFloat64 : DType::kFloat32, width, 1, channels};
}

// The normalisation x / max(|x|, eps). Its gradient is (g - xn (xn . g)) / |x| where |x| > eps, and
// g / eps below, where the divisor is constant and `inverse_norm` is 1 / eps.
template <class C>
constexpr C kNormEpsilon = C(1e-12);

// For a vector of tokens in the lanes.
template <class C>
inline Vector<C> inverse_norm(index_t channels, const C* panel, index_t stride) {
  Vector<C> even{};
  Vector<C> odd{};
  index_t c = 0;
  for (; c + 2 <= channels; c += 2) {
    const auto x = load<Vector<C>>(panel + c * stride);
    const auto y = load<Vector<C>>(panel + (c + 1) * stride);
    even += x * x;
    odd += y * y;
  }
  if (c < channels) {
    const auto x = load<Vector<C>>(panel + c * stride);
    even += x * x;
  }
  // In this order, a NaN stays a NaN.
  return C(1) / maximum(broadcast<C>(kNormEpsilon<C>), square_root<C>(even + odd));
}

// For a block of tokens in the lanes.
template <class C>
inline void find_inverse_norms(index_t channels, const C* panel, index_t stride, C* inverse_norms) {
  for (int v = 0; v < 2; ++v)
    store(inverse_norms + v * kLanes<C>, inverse_norm(channels, panel + v * kLanes<C>, stride));
}

// Normalises a block of tokens in the lanes.
template <class C>
inline void normalise_block(index_t channels, C* panel, index_t stride) {
  for (int v = 0; v < 2; ++v) {
    C* block = panel + v * kLanes<C>;
    const Vector<C> inverse = inverse_norm(channels, block, stride);
    for (index_t c = 0; c < channels; ++c)
      store(block + c * stride, load<Vector<C>>(block + c * stride) * inverse);
  }
}

// The factor of the projection in that gradient, for tokens in the lanes: 0 where the normalisation
// is linear, else 1.
template <class C>
inline Vector<C> direction_only(Vector<C> inverse_norm) {
  return inverse_norm < C(1) / kNormEpsilon<C> ? broadcast<C>(1) : Vector<C>{};
}

TRANSNEXT_END_LEVEL
