// Tokens of one image and head, between tensors and the layouts the attention kernels compute in:
//   rows    [tokens][padded channels], channels in the lanes;
//   panels  [padded channels][tokens], tokens in the lanes.
// Padding, in both directions, is zero.
#pragma once

#include "cpu/convert.h"
#include "cpu/storage.h"
#include "cpu/transpose.h"

TRANSNEXT_BEGIN_LEVEL

// Tokens are handled in blocks of two vectors: with a vector register for each of 4 rows that makes
// the 8 independent sums of multiply.h.
template <class C>
constexpr index_t kBlock = 2 * kLanes<C>;

struct TokenView {
  void* data;
  DType dtype;
  index_t token_stride;
  index_t channel_stride;
  index_t channels;
};

inline index_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 || dtype == DType::kInt32 ? 4 : 2;
}

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

// rows[i] = token first + i for i < count, zero for count <= i < padded_count.
template <class C>
inline void load_rows(const TokenView& view, index_t first, index_t count, index_t padded_count,
                      C* rows, index_t width) {
  with_storage(view.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = typename S::Type;
    if constexpr (std::is_same_v<typename S::Compute, C>) {
      for (index_t i = 0; i < count; ++i) {
        const T* token = static_cast<const T*>(view.data) + (first + i) * view.token_stride;
        for (index_t c = 0; c < width; c += kLanes<C>)
          store(rows + i * width + c, load_lanes<C>(token, view.channel_stride, c, view.channels));
      }
    }
  });
  for (index_t i = count * width; i < padded_count * width; i += kLanes<C>)
    store(rows + i, Vector<C>{});
}

template <class C>
inline void store_rows(const TokenView& view, index_t first, index_t count, const C* rows,
                       index_t width) {
  with_storage(view.dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = typename S::Type;
    if constexpr (std::is_same_v<typename S::Compute, C>) {
      for (index_t i = 0; i < count; ++i) {
        T* token = static_cast<T*>(view.data) + (first + i) * view.token_stride;
        for (index_t c = 0; c < width; c += kLanes<C>)
          store_lanes<C>(token, view.channel_stride, c, view.channels,
                         load<Vector<C>>(rows + i * width + c));
      }
    }
  });
}

// The normalisation x / max(|x|, eps). Its gradient is that of the direction, (g - xn (xn . g)) /
// |x|, where |x| > eps, and g / eps where the division is by the constant: `inverse_norm` is then 1
// / eps.
template <class C>
constexpr C kNormEpsilon = C(1e-12);

template <class C>
inline void normalise_rows(index_t count, C* rows, index_t width, C* inverse_norm) {
  for (index_t i = 0; i < count; ++i) {
    C* row = rows + i * width;
    Vector<C> squares{};
    for (index_t c = 0; c < width; c += kLanes<C>) {
      const auto x = load<Vector<C>>(row + c);
      squares += x * x;
    }
    const C sum = sum_lanes<C>(squares);
    const C norm = sizeof(C) == 8 ? static_cast<C>(__builtin_sqrt(sum))
                                  : static_cast<C>(__builtin_sqrtf(static_cast<float>(sum)));
    const C inverse = C(1) / (norm > kNormEpsilon<C> ? norm : kNormEpsilon<C>);
    for (index_t c = 0; c < width; c += kLanes<C>)
      store(row + c, load<Vector<C>>(row + c) * inverse);
    inverse_norm[i] = inverse;
  }
}

// The gradient through the normalisation, for tokens in lanes: 0 where it is linear, else 1.
template <class C>
inline Vector<C> direction_only(Vector<C> inverse_norm) {
  return inverse_norm < C(1) / kNormEpsilon<C> ? broadcast<C>(1) : Vector<C>{};
}

TRANSNEXT_END_LEVEL
