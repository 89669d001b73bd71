// Rows of queries, keys and values between global and shared memory, in 16-byte vectors:
// neighbouring threads copy neighbouring vectors of a row, so every sector is used. Tensors whose
// rows are not aligned vectors are copied element by element.
#pragma once

#include "cuda/kernels/attention/shape.h"
#include "cuda/kernels/common/async_copy.cuh"
#include "cuda/kernels/common/image.cuh"
#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/storage.cuh"
#include "cuda/kernels/common/thread_index.cuh"
#include "transnext/tensor.h"

namespace transnext::device {

template <class T>
struct alignas(kVector16Bytes) Vector16 {
  static constexpr int kElements = kVector16Bytes / static_cast<int>(sizeof(T));
  T values[kElements];
};

enum class BiasKind : int {
  kNone,
  kOwn,      // each query's, computed into shared memory
  kInPlace,  // read from the tensor
};

// What a block works on, in shared memory: it is read where it is needed, so it occupies no
// registers during the GEMMs.
struct TileState {
  int batch;
  int head;
  int top;
  int left;
  BiasKind bias;      // where a chunk's biases are (bias.cuh)
  bool vectors;       // HeadRows are whole aligned vectors
  bool large_tokens;  // weights with a window's tokens may overflow a Half (window_gemm.cuh)
  float token_scale;  // power of two that scales these
};

// The rows of one (image, head) of a [B, N, h, d] tensor. Rows are less than 2^31 elements apart, as
// the launch plan checks.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int row_stride = 0;
  int channel_stride = 0;
  int channels = 0;
  bool vectors = false;  // rows are whole aligned vectors

  __device__ HeadRows(const View<4>& view, index_t batch, index_t head, bool vectors)
      : data(static_cast<T*>(view.data) + batch * view.stride[0] + head * view.stride[2]),
        row_stride(static_cast<int>(view.stride[1])),
        channel_stride(static_cast<int>(view.stride[3])),
        channels(static_cast<int>(view.shape[3])),
        vectors(vectors) {}
  __device__ HeadRows(const View<4>& view, const TileState& state)
      : HeadRows(view, state.batch, state.head, state.vectors) {}

  __device__ T* row(int index) const { return data + static_cast<index_t>(index) * row_stride; }
  __device__ T& element(int index, int channel) const {
    return row(index)[static_cast<index_t>(channel) * channel_stride];
  }

  // Starts to copy a vector of row `index`; zeros beyond the channels, or everywhere if not
  // `valid`.
  __device__ void load(Vector16<T>* to, int index, int vector, bool valid) const {
    const int first = vector * Vector16<T>::kElements;
    if (vectors) {
      copy_async_16(to, row(index) + first, valid && first < channels);
      return;
    }
#pragma unroll 1
    for (int i = 0; i < Vector16<T>::kElements; ++i) {
      const bool inside = valid && first + i < channels;
      to->values[i] = inside ? element(index, first + i) : T{};
    }
  }

  // Stores channels c + 8 i and c + 8 i + 1 of row `index` for all i; c is even.
  template <int kPairs>
  __device__ void store_pairs(int index, int c, const float (&values)[kPairs][2]) const {
    if (vectors) {
      T* to = row(index) + c;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        if (8 * i + (sizeof(T) == 4 ? c : 0) >= channels) continue;
        if constexpr (sizeof(T) == 4)
          *reinterpret_cast<float2*>(to + 8 * i) = float2{values[i][0], values[i][1]};
        else
          *reinterpret_cast<unsigned*>(to + 8 * i) = pack<T>(values[i][0], values[i][1]);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int channel = c + 8 * i + e;
        if (channel < channels) from_float(values[i][e], element(index, channel));
      }
    }
  }

  // Stores the elements of a vector of the row that begins at `to`, one by one.
  __device__ void store(T* to, const Vector16<T>& from, int vector) const {
    const int first = vector * Vector16<T>::kElements;
#pragma unroll 1
    for (int i = 0; i < Vector16<T>::kElements; ++i) {
      if (first + i < channels)
        to[static_cast<index_t>(first + i) * channel_stride] = from.values[i];
    }
  }
};

// Rows in shared memory. Without the exchange of vectors they suit threads that read the same row.
template <class T, int kDim, bool kExchange = exchanges_vectors(kDim, sizeof(T))>
struct SharedRows {
  static constexpr int kRowVectors16 = kDim * static_cast<int>(sizeof(T)) / kVector16Bytes;
  static constexpr int kRowBytes = row_bytes(kDim, sizeof(T));

  unsigned char* begin;

  __device__ Vector16<T>* vector(int row, int index) const {
    if (kExchange) index ^= row >> 2 & 1;
    return reinterpret_cast<Vector16<T>*>(begin + row * kRowBytes + index * kVector16Bytes);
  }

  // Without the exchange: a row of floats, and channels c and c + 1 of a row; c is even.
  __device__ float4* four(int row) const { return reinterpret_cast<float4*>(vector(row, 0)); }
  __device__ float2 pair(int row, int c) const {
    static_assert(!kExchange, "vectors in their order");
    const unsigned char* at = begin + row * kRowBytes + c * static_cast<int>(sizeof(T));
    if constexpr (sizeof(T) == 4)
      return *reinterpret_cast<const float2*>(at);
    else
      return floats_of<T>(*reinterpret_cast<const unsigned*>(at));
  }

  // A row for loops over its vectors: all addresses follow from two.
  class Row {
   public:
    __device__ Row(const SharedRows& rows, int row)
        : even_(rows.vector(row, 0)), odd_(kRowVectors16 > 1 ? rows.vector(row, 1) : even_) {}
    __device__ Vector16<T>& operator[](int index) const {
      return index % 2 == 0 ? even_[index] : odd_[index - 1];
    }

   private:
    Vector16<T>* even_;
    Vector16<T>* odd_;
  };

  // Calls visit(channel, value) for the elements of a row.
  template <class Visit>
  __device__ void for_elements(int row, const Visit& visit) const {
    const Row vectors(*this, row);
#pragma unroll
    for (int i = 0; i < kRowVectors16; ++i) {
      const Vector16<T> vector = vectors[i];
#pragma unroll
      for (int e = 0; e < Vector16<T>::kElements; ++e)
        visit(i * Vector16<T>::kElements + e, vector.values[e]);
    }
  }

  __device__ void read(int row, float (&to)[kDim]) const {
    for_elements(row, [&](int c, T value) { to[c] = to_float(value); });
  }

  __device__ void write(int row, const float (&from)[kDim]) const {
    const Row vectors(*this, row);
#pragma unroll
    for (int i = 0; i < kRowVectors16; ++i) {
      Vector16<T> vector;
#pragma unroll
      for (int e = 0; e < Vector16<T>::kElements; ++e)
        from_float(from[i * Vector16<T>::kElements + e], vector.values[e]);
      vectors[i] = vector;
    }
  }

  // from . row, `from` being [kDim]
  __device__ float dot(int row, const float* from) const {
    const Row vectors(*this, row);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kRowVectors16; ++i) {
      const Vector16<T> vector = vectors[i];
#pragma unroll
      for (int e = 0; e < Vector16<T>::kElements; ++e)
        sum += from[i * Vector16<T>::kElements + e] * to_float(vector.values[e]);
    }
    return sum;
  }

  // to += factor * row
  __device__ void add(int row, float factor, float (&to)[kDim]) const {
    for_elements(row, [&](int c, T value) { to[c] += factor * to_float(value); });
  }

  // |row|^2, 1 / max(|row|, 1e-12)
  __device__ float square(int row) const {
    float square = 0.0f;
    for_elements(row, [&](int, T element) {
      const float value = to_float(element);
      square += value * value;
    });
    return square;
  }
  __device__ float inverse_norm(int row) const { return device::inverse_norm(square(row)); }
};

// Where a tile is, in registers.
struct TileCorner {
  int top, left, height, width;  // height and width of the image

  __device__ bool row_inside(int row) const {
    return static_cast<unsigned>(row) < static_cast<unsigned>(height);
  }
  __device__ bool column_inside(int column) const {
    return static_cast<unsigned>(column) < static_cast<unsigned>(width);
  }
  __device__ bool inside(int row, int column) const {
    return row_inside(row) && column_inside(column);
  }
  __device__ int token(int row, int column) const { return row * width + column; }
};

// Where a tile's queries lie in the image, by thread.
template <class Tile>
struct TilePosition {
  const TileState* state;
  const Grid* grid;  // in the kernel's parameters

  __device__ TileCorner corner() const { return {state->top, state->left, height(), width()}; }
  __device__ int height() const { return static_cast<int>(grid->height); }
  __device__ int width() const { return static_cast<int>(grid->width); }
  __device__ int row(int query) const { return state->top + Tile::row(query); }
  __device__ int column(int query) const { return state->left + Tile::column(query); }
  __device__ int rows_inside() const {
    return height() - state->top < Tile::kRows ? height() - state->top : Tile::kRows;
  }
  __device__ int columns_inside() const {
    return width() - state->left < Tile::kColumns ? width() - state->left : Tile::kColumns;
  }
  __device__ bool inside(int query) const {
    return row(query) < height() && column(query) < width();
  }
  // Whether any query of a thread's warp is in the image: if so, its first one is.
  __device__ bool warp_inside(int thread) const { return inside(thread / 32 * 32); }
  __device__ int token(int query) const { return row(query) * width() + column(query); }
};

// How kThreads threads share the vectors of a rectangle of tokens: neighbouring threads take
// neighbouring vectors of one row, and each walks down its column, so that from token to token only
// the row changes.
template <int kThreads, int kRows, int kColumns, int kVectors>
struct RectangleWalk {
  static constexpr unsigned kAcross = kColumns * kVectors;
  static constexpr unsigned kStep = kAcross < kThreads ? kThreads / kAcross : 1;  // rows

  // Calls `walk(row, column, vector)` with the thread's first row.
  template <class Walk>
  __device__ static void for_columns(unsigned thread, const Walk& walk) {
    constexpr unsigned kItems = kStep * kAcross;
    const auto begin = [&](unsigned i) {
      const unsigned row = kStep == 1 ? 0 : i / kAcross;
      const unsigned column = (i - row * kAcross) / kVectors;
      walk(static_cast<int>(row), static_cast<int>(column),
           static_cast<int>(i - row * kAcross - column * kVectors));
    };
    if constexpr (kItems <= kThreads) {
      if (thread < kItems) begin(thread);
    } else {
#pragma unroll 1
      for (unsigned i = thread; i < kItems; i += kThreads) begin(i);
    }
  }

  // Calls `visit(row)` for a thread's rows from `first` on.
  template <class Visit>
  __device__ static void for_rows(int first, const Visit& visit) {
#pragma unroll
    for (unsigned down = 0; down < kRows; down += kStep) {
      const int row = first + static_cast<int>(down);
      if (down + kStep <= kRows || row < kRows) visit(row);
    }
  }
};

// Starts to copy the kRows x kColumns tokens from the corner on of one or two tensors with the same
// channels into the rows of each one's `to` from `first` on; zeros outside the image.
template <int kThreads, int kRows, int kColumns, class T, int kDim, int kTensors>
__device__ inline void load_rectangle(unsigned thread, const HeadRows<T> (&from)[kTensors],
                                      const TileCorner& corner,
                                      const SharedRows<T, kDim> (&to)[kTensors], int first = 0) {
  using Walk = RectangleWalk<kThreads, kRows, kColumns, SharedRows<T, kDim>::kRowVectors16>;
  Walk::for_columns(thread, [&](int top, int column, int vector) {
    const bool here = corner.column_inside(corner.left + column) &&
                      vector * Vector16<T>::kElements < from[0].channels;
    const T* source[kTensors];
#pragma unroll
    for (int i = 0; i < kTensors; ++i) {
      source[i] = from[i].row(corner.token(corner.top + top, corner.left + column)) +
                  vector * Vector16<T>::kElements;
    }
    if (!from[0].vectors) {
#pragma unroll 1
      for (int row = top; row < kRows; row += Walk::kStep) {
#pragma unroll
        for (int i = 0; i < kTensors; ++i)
          from[i].load(to[i].vector(first + row * kColumns + column, vector),
                       corner.token(corner.top + row, corner.left + column), vector,
                       here && corner.row_inside(corner.top + row));
      }
      return;
    }
    Walk::for_rows(top, [&](int row) {
      const bool valid = here && corner.row_inside(corner.top + row);
#pragma unroll
      for (int i = 0; i < kTensors; ++i) {
        copy_async_16(to[i].vector(first + row * kColumns + column, vector), source[i], valid);
        source[i] += static_cast<index_t>(from[i].row_stride) * corner.width * Walk::kStep;
      }
    });
  });
}

// The part of a tile that a warp's own queries are, in the image.
template <class Tile>
__device__ inline TileCorner warp_corner(const TilePosition<Tile>& position) {
  TileCorner corner = position.corner();
  const int first = thread_index() / 32 * 32;
  corner.top += Tile::row(first);
  corner.left += Tile::column(first);
  return corner;
}

// Starts to copy the rows of all queries of a tile, each warp its own.
template <class Tile, class T, int kDim>
__device__ inline void load_queries(const HeadRows<T>& from, const TilePosition<Tile>& position,
                                    const SharedRows<T, kDim>& to) {
  load_rectangle<32, kWarpRows, kWarpColumns, T, kDim, 1>(
      thread_index() % 32, {from}, warp_corner(position), {to}, thread_index() / 32 * 32);
}

// Stores the rows of a warp's own queries.
template <class T, int kDim>
__device__ inline void store_queries(const HeadRows<T>& to, const TileCorner& corner,
                                     const SharedRows<T, kDim>& from) {
  using Walk = RectangleWalk<32, kWarpRows, kWarpColumns, SharedRows<T, kDim>::kRowVectors16>;
  const int thread = thread_index();
  Walk::for_columns(thread % 32, [&](int top, int column, int vector) {
    if (!corner.column_inside(corner.left + column)) return;
    const int query = thread / 32 * 32 + column;
    T* target = to.row(corner.token(corner.top + top, corner.left + column));
    const index_t step = static_cast<index_t>(to.row_stride) * corner.width * Walk::kStep;
    if (to.vectors && vector * Vector16<T>::kElements >= to.channels) return;
    Walk::for_rows(top, [&](int row) {
      if (!corner.row_inside(corner.top + row)) return;
      const Vector16<T>& values = *from.vector(query + row * kWarpColumns, vector);
      if (to.vectors)
        reinterpret_cast<Vector16<T>*>(target)[vector] = values;
      else
        to.store(target, values, vector);
      target += step;
    });
  });
}

// Starts to copy a tile of one or two tensors with the halo of its windows.
template <class Tile, int kWindow, class T, int kDim, int kTensors>
__device__ inline void load_halo(const HeadRows<T> (&from)[kTensors],
                                 const TilePosition<Tile>& position,
                                 const SharedRows<T, kDim> (&to)[kTensors]) {
  TileCorner corner = position.corner();
  corner.top -= kWindow / 2;
  corner.left -= kWindow / 2;
  load_rectangle<Tile::kQueries, Tile::kRows + kWindow - 1, Tile::kColumns + kWindow - 1>(
      thread_index(), from, corner, to);
}

// Starts to copy `rows` pooled keys and values from `first` on, by all of a block's `threads`; zeros
// from `end` on.
template <class T, class KeyRows, class ValueRows>
__device__ inline void load_chunk(int threads, const HeadRows<T>& keys, const HeadRows<T>& values,
                                  int first, int rows, int end, const KeyRows& to_keys,
                                  const ValueRows& to_values) {
  constexpr int kRowVectors16 = KeyRows::kRowVectors16;
#pragma unroll 1
  for (unsigned i = thread_index(); i < static_cast<unsigned>(rows * kRowVectors16); i += threads) {
    const int key = static_cast<int>(i / kRowVectors16);
    const int vector = static_cast<int>(i % kRowVectors16);
    keys.load(to_keys.vector(key, vector), first + key, vector, first + key < end);
    values.load(to_values.vector(key, vector), first + key, vector, first + key < end);
  }
}

}  // namespace transnext::device
