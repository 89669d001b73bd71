// The left operand of a Linear: rows of a tensor of any floating-point type, converted to the
// GEMM's type and optionally normalised; and the store of its result.
#pragma once

#include "cpu/gemm/packed_gemm.h"
#include "cpu/runtime/ranges.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/storage.h"
#include "transnext/linear.h"

TRANSNEXT_BEGIN_LEVEL

// Stride of rows in scratch for a product with elements E.
template <class E>
inline index_t product_stride(index_t depth) {
  return odd_lines<LeftOf<E>>(round_up(depth, Product<E>::kDepth));
}

// Rows split into blocks, one for a task: whole tiles of rows but for the last, as equal as they can be,
// and as many for each thread as for the others.
class RowBlocks {
 public:
  // Of `most` rows at most, but a tile at least.
  RowBlocks(index_t rows, index_t tile, index_t most, int threads)
      : rows_(rows),
        tile_(tile),
        tiles_((rows - 1) / tile + 1),
        count_(smaller(tiles_, round_up((tiles_ - 1) / larger(1, most / tile) + 1, threads))) {}

  index_t count() const { return count_; }
  // The first row of a block, or the end of the one before it.
  index_t begin(index_t block) const {
    return smaller(rows_, range_begin(block, tiles_, count_) * tile_);
  }

 private:
  index_t rows_;
  index_t tile_;
  index_t tiles_;
  index_t count_;
};

// Blocks for products with elements E, of as many rows as are worth reading all panels for, if `fitting`
// fit into the cache. The tile unit, which multiplies faster, needs more of them.
template <class E>
inline RowBlocks row_blocks(index_t rows, index_t fitting, int threads) {
  constexpr index_t kMost = kOnTileUnit<E> ? 224 : 96;
  return {rows, kOnTileUnit<E> ? kTileSide : kTileRows, smaller(fitting, kMost), threads};
}

// Zeros behind the last of `depth` elements of a row, which is filled afterwards: in whole blocks,
// since the elements of a split row are not in order.
template <class E>
inline void clear_row_end(index_t depth, LeftOf<E>* row) {
  constexpr index_t kBlock = Product<E>::kDepth;
  for (index_t k = depth / kBlock * kBlock; k < round_up(depth, kBlock); ++k) row[k] = LeftOf<E>{};
}

// LayerNorm's parameters as contiguous rows.
template <class C>
struct Norm {
  const C* weight;  // nullptr: no norm
  const C* bias;
  C epsilon;
};

// The norm's parameters in place, or copied into `room` ([2 * depth]) if they are strided.
template <class C, class Room>
inline Norm<C> contiguous_norm(const LayerNormParams& norm, index_t depth, Room& room) {
  if (!norm.weight.present()) return {nullptr, nullptr, C(0)};
  for (index_t i = 0; i < depth; ++i) {
    room[i] = static_cast<const C*>(norm.weight.data)[i * norm.weight.stride[0]];
    room[depth + i] = static_cast<const C*>(norm.bias.data)[i * norm.bias.stride[0]];
  }
  return {room.data(), room.data() + depth, static_cast<C>(norm.epsilon)};
}

// Normalises one row of `depth` elements in place: (x - mean) / sqrt(variance + epsilon) * weight
// + bias. Returns 1 / sqrt(variance + epsilon).
template <class C>
inline C normalise_layer(const Norm<C>& norm, index_t depth, C* row) {
  constexpr index_t n = kLanes<C>;
  const index_t whole = depth / n * n;
  Vector<C> sums{};
  for (index_t i = 0; i < whole; i += n) sums += load<Vector<C>>(row + i);
  if (whole < depth) sums += load_lanes<C>(row, 1, whole, depth);
  const C mean = sum_lanes<C>(sums) / static_cast<C>(depth);
  Vector<C> squares{};
  for (index_t i = 0; i < whole; i += n) {
    const Vector<C> x = load<Vector<C>>(row + i) - mean;
    squares += x * x;
  }
  if (whole < depth) {
    const Mask<C> present = lane_numbers<C>() < static_cast<MaskLane<C>>(depth - whole);
    const Vector<C> x = masked<C>(load_lanes<C>(row, 1, whole, depth) - mean, present);
    squares += x * x;
  }
  const C variance = sum_lanes<C>(squares) / static_cast<C>(depth) + norm.epsilon;
  const C scale =
      C(1) / (sizeof(C) == 8 ? static_cast<C>(__builtin_sqrt(static_cast<double>(variance)))
                             : static_cast<C>(__builtin_sqrtf(static_cast<float>(variance))));
  for (index_t i = 0; i < whole; i += n) {
    const Vector<C> x = (load<Vector<C>>(row + i) - mean) * scale;
    store(row + i, x * load<Vector<C>>(norm.weight + i) + load<Vector<C>>(norm.bias + i));
  }
  if (whole < depth) {
    const auto part = [&](const C* values) { return load_lanes<C>(values, 1, whole, depth); };
    const Vector<C> x = (part(row) - mean) * scale;
    store_lanes<C>(row, 1, whole, depth, x * part(norm.weight) + part(norm.bias));
  }
  return scale;
}

// Calls function(T{}) for the storage type of a tensor that goes with products of elements E: float64
// only with double, and only float32 with split floats.
template <class E, class Function>
inline void with_storage_of(DType dtype, Function&& function) {
  if constexpr (std::is_same_v<E, SplitFloat>) {
    function(float{});
  } else {
    with_storage(dtype, [&](auto storage) {
      using S = decltype(storage);
      if constexpr (std::is_same_v<typename S::Compute, typename Product<E>::Sum>)
        function(typename S::Type{});
    });
  }
}

// to[i * stride ..] = `depth` elements of row first + i of x, normalised, with zeros up to a
// multiple of Product<E>::kDepth: rows to multiply by a weight of elements E. `row` is room for one
// of C.
template <class E, class C>
inline void load_product_rows(const View<2>& x, index_t first, index_t count, const Norm<C>& norm,
                              C* row, LeftOf<E>* to, index_t stride) {
  using Left = LeftOf<E>;
  const index_t depth = x.shape[1];
  with_storage_of<E>(x.dtype, [&](auto element) {
    using T = decltype(element);
    for (index_t i = 0; i < count; ++i) {
      const T* from = static_cast<const T*>(x.data) + (first + i) * x.stride[0];
      Left* target = to + i * stride;
      clear_row_end<E>(depth, target);
      if constexpr (std::is_same_v<T, Left>) {
        if (norm.weight == nullptr && x.stride[1] == 1) {
          __builtin_memcpy(target, from, static_cast<unsigned long>(depth) * sizeof(Left));
          continue;
        }
      }
      C* values = row;
      if constexpr (std::is_same_v<Left, C>) values = target;
      load_row(from, x.stride[1], depth, values);
      if (norm.weight != nullptr) normalise_layer(norm, depth, values);
      if constexpr (!std::is_same_v<Left, C>) store_row(values, 1, depth, target);
    }
  });
}

// out[i] = sums[i] + residual[i] for the `count` columns of a panel; `residual` may be nullptr.
template <class C, class T>
inline void store_sums(const C* sums, index_t count, const T* residual, index_t residual_stride,
                       T* out, index_t out_stride) {
  const bool side_by_side = out_stride == 1 && (residual == nullptr || residual_stride == 1);
  if (count == kPanelColumns && side_by_side) {  // nearly always: without a branch per vector
    for (index_t i = 0; i < kPanelColumns; i += kLanes<C>) {
      Vector<C> sum = load<Vector<C>>(sums + i);
      if (residual != nullptr) sum += load_vector<C>(residual + i);
      store_vector<C>(out + i, sum);
    }
    return;
  }
  for (index_t i = 0; i < count; i += kLanes<C>) {
    Vector<C> sum = load<Vector<C>>(sums + i);
    if (residual != nullptr) sum += load_lanes<C>(residual, residual_stride, i, count);
    store_lanes<C>(out, out_stride, i, count, sum);
  }
}

// A bias of `columns` elements as a contiguous row padded with zeros to whole panels, in `room`.
template <class C, class Room>
inline const C* padded_bias(const View<1>& bias, index_t first, index_t columns, Room& room) {
  for (index_t i = 0; i < static_cast<index_t>(room.size()); ++i) {
    room[i] = bias.present() && i < columns
                  ? static_cast<const C*>(bias.data)[(first + i) * bias.stride[0]]
                  : C(0);
  }
  return room.data();
}

inline index_t whole_panels(index_t columns) {
  return round_up(columns, kPanelColumns);
}

template <class E>
inline Panels<E> panels_of(const PackedWeight& weight) {
  return Panels<E>::of(weight.data, weight.dtype, weight.columns, weight.depth);
}

// Calls function(E{}, C{}) for a GEMM's element type and the type of its sums.
template <class Function>
inline void with_product(DType dtype, Function&& function) {
  if constexpr (kHasFloat64) {
    if (dtype == DType::kFloat64) return function(double{}, double{});
  }
  if (dtype == DType::kBFloat16) return function(BFloat16{}, float{});
#if defined(TRANSNEXT_TILES)
  if (dtype == kSplitFloat) return function(SplitFloat{}, float{});
#endif
  if constexpr (kHasFloat32) function(float{}, float{});
}

TRANSNEXT_END_LEVEL
