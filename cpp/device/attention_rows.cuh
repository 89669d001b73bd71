// Rows of queries, keys and values between global and shared memory, in pieces of 16 bytes:
// neighbouring threads take neighbouring pieces of a row, so every sector is used. Tensors whose
// rows are not made of aligned pieces are copied element by element.
#pragma once

#include "device/async_copy.cuh"
#include "device/attention_shape.h"
#include "device/image.cuh"
#include "device/math.cuh"
#include "device/storage.cuh"
#include "transnext/tensor.h"

namespace transnext::device {

template <class T>
struct alignas(kPiece) Piece {
  static constexpr int kElements = kPiece / static_cast<int>(sizeof(T));
  T values[kElements];
};

// The rows of one (image, head) of a [B, N, h, d] tensor.
template <class T>
struct HeadRows {
  T* data = nullptr;
  index_t row_stride = 0;
  index_t channel_stride = 0;
  int channels = 0;
  bool pieces = false;  // made of aligned pieces

  __device__ HeadRows(const View<4>& view, index_t batch, index_t head)
      : data(static_cast<T*>(view.data) + batch * view.stride[0] + head * view.stride[2]),
        row_stride(view.stride[1]),
        channel_stride(view.stride[3]),
        channels(static_cast<int>(view.shape[3])),
        pieces(reinterpret_cast<unsigned long long>(data) % kPiece == 0 &&
               row_stride % Piece<T>::kElements == 0 && channels % Piece<T>::kElements == 0 &&
               channel_stride == 1) {}

  // Asks for a piece of row `index`; zeros beyond the channels, or everywhere if not `valid`.
  __device__ void load(Piece<T>* to, index_t index, int piece, bool valid) const {
    const int first = piece * Piece<T>::kElements;
    if (pieces) {
      const bool inside = valid && first < channels;
      copy_async_16(to, inside ? data + index * row_stride + first : data, inside);
      return;
    }
#pragma unroll
    for (int i = 0; i < Piece<T>::kElements; ++i) {
      const bool inside = valid && first + i < channels;
      to->values[i] = inside ? data[index * row_stride + (first + i) * channel_stride] : T{};
    }
  }

  __device__ void store(const Piece<T>& from, index_t index, int piece) const {
    const int first = piece * Piece<T>::kElements;
    if (pieces) {
      if (first < channels) *reinterpret_cast<Piece<T>*>(data + index * row_stride + first) = from;
      return;
    }
#pragma unroll
    for (int i = 0; i < Piece<T>::kElements; ++i) {
      if (first + i < channels)
        data[index * row_stride + (first + i) * channel_stride] = from.values[i];
    }
  }
};

// Rows in shared memory.
template <class T, int kDim>
struct SharedRows {
  static constexpr int kPieces = kDim * static_cast<int>(sizeof(T)) / kPiece;
  static constexpr int kRowBytes = row_bytes(kDim, sizeof(T));

  unsigned char* begin;

  __device__ Piece<T>* piece(int row, int index) const {
    return reinterpret_cast<Piece<T>*>(begin + row * kRowBytes + index * kPiece);
  }

  __device__ void read(int row, float (&to)[kDim]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const Piece<T> piece = *this->piece(row, i);
#pragma unroll
      for (int e = 0; e < Piece<T>::kElements; ++e)
        to[i * Piece<T>::kElements + e] = to_float(piece.values[e]);
    }
  }

  __device__ void write(int row, const float (&from)[kDim]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      Piece<T> piece;
#pragma unroll
      for (int e = 0; e < Piece<T>::kElements; ++e)
        from_float(from[i * Piece<T>::kElements + e], piece.values[e]);
      *this->piece(row, i) = piece;
    }
  }

  // from . row, `from` being [kDim]
  __device__ float dot(int row, const float* from) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const Piece<T> piece = *this->piece(row, i);
#pragma unroll
      for (int e = 0; e < Piece<T>::kElements; ++e)
        sum += from[i * Piece<T>::kElements + e] * to_float(piece.values[e]);
    }
    return sum;
  }

  // to += factor * row
  __device__ void add(int row, float factor, float (&to)[kDim]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const Piece<T> piece = *this->piece(row, i);
#pragma unroll
      for (int e = 0; e < Piece<T>::kElements; ++e)
        to[i * Piece<T>::kElements + e] += factor * to_float(piece.values[e]);
    }
  }

  // 1 / max(|row|, 1e-12)
  __device__ float inverse_norm(int row) const {
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const Piece<T> piece = *this->piece(row, i);
#pragma unroll
      for (int e = 0; e < Piece<T>::kElements; ++e) {
        const float value = to_float(piece.values[e]);
        square += value * value;
      }
    }
    return device::inverse_norm(square);
  }
};

// What a block works on, in its shared memory: read where it is needed, so that it takes no registers
// while products are made.
struct TileState {
  int batch;
  int head;
  int top;
  int left;
  // Of the bias (attention_bias.cuh):
  int has_ring;       // the table is of the kind that a ring can hold
  int in_ring;        // the present chunk's bias is in the ring
  int lowest_column;  // first table column in the ring
  int width;          // table columns in the ring
  int low[2];         // table rows in the ring, of even and odd chunks
  int high[2];
};

// The queries of a tile of one (image, head), and which thread has which.
template <class Tile>
struct TilePlace {
  const TileState* state;
  const Grid* grid;  // in the kernel's parameters

  __device__ int height() const { return static_cast<int>(grid->height); }
  __device__ int width() const { return static_cast<int>(grid->width); }
  __device__ int row(int query) const { return state->top + query / Tile::kColumns; }
  __device__ int column(int query) const { return state->left + query % Tile::kColumns; }
  __device__ int rows_inside() const {
    return height() - state->top < Tile::kRows ? height() - state->top : Tile::kRows;
  }
  __device__ int columns_inside() const {
    return width() - state->left < Tile::kColumns ? width() - state->left : Tile::kColumns;
  }
  __device__ bool inside(int query) const {
    return row(query) < height() && column(query) < width();
  }
  __device__ index_t token(int query) const {
    return static_cast<index_t>(row(query)) * width() + column(query);
  }
};

// Asks for the rows of all queries of a tile.
template <class Tile, class T, int kDim>
__device__ inline void load_queries(const HeadRows<T>& from, const TilePlace<Tile>& place,
                                    const SharedRows<T, kDim>& to) {
  constexpr int kPieces = SharedRows<T, kDim>::kPieces;
#pragma unroll 1
  for (int i = threadIdx.x; i < Tile::kQueries * kPieces; i += Tile::kQueries) {
    const int query = i / kPieces;
    from.load(to.piece(query, i % kPieces), place.token(query), i % kPieces, place.inside(query));
  }
}

template <class Tile, class T, int kDim>
__device__ inline void store_queries(const HeadRows<T>& to, const TilePlace<Tile>& place,
                                     const SharedRows<T, kDim>& from) {
  constexpr int kPieces = SharedRows<T, kDim>::kPieces;
#pragma unroll 1
  for (int i = threadIdx.x; i < Tile::kQueries * kPieces; i += Tile::kQueries) {
    const int query = i / kPieces;
    if (place.inside(query))
      to.store(*from.piece(query, i % kPieces), place.token(query), i % kPieces);
  }
}

// Asks for the rows of kChunkKeys pooled tokens from `first` on; zeros beyond the last.
template <class Tile, class T, int kDim>
__device__ inline void load_chunk(const HeadRows<T>& from, int first, int count,
                                  const SharedRows<T, kDim>& to) {
  constexpr int kPieces = SharedRows<T, kDim>::kPieces;
#pragma unroll 1
  for (int i = threadIdx.x; i < kChunkKeys * kPieces; i += Tile::kQueries) {
    const int key = i / kPieces;
    from.load(to.piece(key, i % kPieces), first + key, i % kPieces, first + key < count);
  }
}

// Asks for the rows of a tile's image cells and of those around it, zeros outside the image.
template <class Tile, int kWindow, class T, int kDim>
__device__ inline void load_halo(const HeadRows<T>& from, const TilePlace<Tile>& place,
                                 const SharedRows<T, kDim>& to) {
  constexpr int kPieces = SharedRows<T, kDim>::kPieces;
  constexpr int kWidth = Tile::kColumns + kWindow - 1;
  constexpr int kCells = kWidth * (Tile::kRows + kWindow - 1);
#pragma unroll 1
  for (int i = threadIdx.x; i < kCells * kPieces; i += Tile::kQueries) {
    const int cell = i / kPieces;
    const int row = place.state->top - kWindow / 2 + cell / kWidth;
    const int column = place.state->left - kWindow / 2 + cell % kWidth;
    from.load(to.piece(cell, i % kPieces), static_cast<index_t>(row) * place.width() + column,
              i % kPieces, inside(*place.grid, row, column));
  }
}

}  // namespace transnext::device
