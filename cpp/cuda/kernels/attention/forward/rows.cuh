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

// The rows of one (image, head) of a [B, N, h, d] tensor. Rows are less than 2^31 elements apart, as
// the launch plan checks.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int row_stride = 0;
  int channel_stride = 0;
  int channels = 0;
  bool vectors = false;  // rows are whole aligned vectors

  __device__ HeadRows(const View<4>& view, index_t batch, index_t head)
      : data(static_cast<T*>(view.data) + batch * view.stride[0] + head * view.stride[2]),
        row_stride(static_cast<int>(view.stride[1])),
        channel_stride(static_cast<int>(view.stride[3])),
        channels(static_cast<int>(view.shape[3])),
        vectors(reinterpret_cast<unsigned long long>(data) % kVector16Bytes == 0 &&
                row_stride % Vector16<T>::kElements == 0 &&
                channels % Vector16<T>::kElements == 0 && channel_stride == 1) {}

  __device__ T* row(int index) const { return data + static_cast<index_t>(index) * row_stride; }

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
      to->values[i] = inside ? row(index)[static_cast<index_t>(first + i) * channel_stride] : T{};
    }
  }

  __device__ void store(const Vector16<T>& from, int index, int vector) const {
    const int first = vector * Vector16<T>::kElements;
    T* to = row(index);
    if (vectors) {
      if (first < channels) *reinterpret_cast<Vector16<T>*>(to + first) = from;
      return;
    }
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
  static constexpr int kRowBytes = forward_row_bytes(kDim, sizeof(T));

  unsigned char* begin;

  __device__ Vector16<T>* vector(int row, int index) const {
    if (kExchange) index ^= row >> 2 & 1;
    return reinterpret_cast<Vector16<T>*>(begin + row * kRowBytes + index * kVector16Bytes);
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

  // 1 / max(|row|, 1e-12) and from . row, in one rolled loop over the row.
  __device__ float2 inverse_norm_and_dot(int row, const float* from) const {
    const Row vectors(*this, row);
    float square = 0.0f;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kRowVectors16; ++i) {
      const Vector16<T> vector = vectors[i];
#pragma unroll
      for (int e = 0; e < Vector16<T>::kElements; ++e) {
        const float value = to_float(vector.values[e]);
        square += value * value;
        sum += from[i * Vector16<T>::kElements + e] * value;
      }
    }
    return {device::inverse_norm(square), sum};
  }

  // to += factor * row
  __device__ void add(int row, float factor, float (&to)[kDim]) const {
    for_elements(row, [&](int c, T value) { to[c] += factor * to_float(value); });
  }

  // 1 / max(|row|, 1e-12)
  __device__ float inverse_norm(int row) const {
    float square = 0.0f;
    for_elements(row, [&](int, T element) {
      const float value = to_float(element);
      square += value * value;
    });
    return device::inverse_norm(square);
  }
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
  float token_scale;  // power of two that scales a window's tokens (window_gemm.cuh)
};

// Where a tile is, in registers.
struct TileCorner {
  int top, left, height, width;  // height and width of the image

  __device__ bool inside(int row, int column) const {
    return static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(column) < static_cast<unsigned>(width);
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

// Starts to copy the rows of all queries of a tile.
template <class Tile, class T, int kDim>
__device__ inline void load_queries(const HeadRows<T>& from, const TilePosition<Tile>& position,
                                    const SharedRows<T, kDim>& to) {
  constexpr int kRowVectors16 = SharedRows<T, kDim>::kRowVectors16;
  const TileCorner corner = position.corner();
#pragma unroll 1
  for (unsigned i = thread_index(); i < static_cast<unsigned>(Tile::kQueries * kRowVectors16);
       i += Tile::kQueries) {
    const int query = static_cast<int>(i / kRowVectors16);
    const int vector = static_cast<int>(i % kRowVectors16);
    const int row = corner.top + Tile::row(query);
    const int column = corner.left + Tile::column(query);
    from.load(to.vector(query, vector), corner.token(row, column), vector,
              corner.inside(row, column));
  }
}

// Stores a warp's own queries, which need no barrier.
template <class Tile, class T, int kDim>
__device__ inline void store_queries(const HeadRows<T>& to, const TilePosition<Tile>& position,
                                     const SharedRows<T, kDim>& from) {
  constexpr int kRowVectors16 = SharedRows<T, kDim>::kRowVectors16;
  const TileCorner corner = position.corner();
  const int first = thread_index() / 32 * 32;
#pragma unroll 1
  for (unsigned i = thread_index() % 32; i < 32 * kRowVectors16; i += 32) {
    const int query = first + static_cast<int>(i / kRowVectors16);
    const int vector = static_cast<int>(i % kRowVectors16);
    const int row = corner.top + Tile::row(query);
    const int column = corner.left + Tile::column(query);
    if (corner.inside(row, column))
      to.store(*from.vector(query, vector), corner.token(row, column), vector);
  }
}

// Starts to copy `rows` pooled keys and values from `first` on; zeros from `end` on.
template <class Tile, class T, class KeyRows, class ValueRows>
__device__ inline void load_chunk(const HeadRows<T>& keys, const HeadRows<T>& values, int first,
                                  int rows, int end, const KeyRows& to_keys,
                                  const ValueRows& to_values) {
  constexpr int kRowVectors16 = KeyRows::kRowVectors16;
#pragma unroll 1
  for (unsigned i = thread_index(); i < static_cast<unsigned>(rows * kRowVectors16);
       i += Tile::kQueries) {
    const int key = static_cast<int>(i / kRowVectors16);
    const int vector = static_cast<int>(i % kRowVectors16);
    keys.load(to_keys.vector(key, vector), first + key, vector, first + key < end);
    values.load(to_values.vector(key, vector), first + key, vector, first + key < end);
  }
}

// Calls `load(cell, vector, token, valid)` for this thread's vectors of a tile with its halo; cells
// inside the image are valid.
template <class Tile, int kWindow, int kRowVectors16, class Load>
__device__ inline void for_halo(const TilePosition<Tile>& position, const Load& load) {
  constexpr unsigned kWidth = Tile::kColumns + kWindow - 1;
  constexpr unsigned kCells = kWidth * (Tile::kRows + kWindow - 1);
  const TileCorner corner = position.corner();
#pragma unroll 1
  for (unsigned i = thread_index(); i < kCells * kRowVectors16; i += Tile::kQueries) {
    const unsigned cell = i / kRowVectors16;
    const int row = corner.top - kWindow / 2 + static_cast<int>(cell / kWidth);
    const int column = corner.left - kWindow / 2 + static_cast<int>(cell % kWidth);
    load(static_cast<int>(cell), static_cast<int>(i % kRowVectors16), corner.token(row, column),
         corner.inside(row, column));
  }
}

}  // namespace transnext::device
