// Tiles of the fused attention kernels and what lies where in their shared memory: read by the
// kernels and by their launch plans.
//
// A block takes a tile of kRows x kColumns queries of one (image, head), one thread for each. Rows of
// keys, values and queries lie in shared memory as 16-byte vectors, so that neighbouring threads
// that read their rows meet no bank twice.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kVector16Bytes = 16;  // bytes

struct TileSize {
  int rows, columns;  // of queries
  int chunk_keys;     // pooled keys that are in shared memory at a time, twice
  int own_bias_keys;  // the same where each query has biases of its own there

  TRANSNEXT_INLINE constexpr int queries() const { return rows * columns; }
};

// A warp has 4 rows and 8 columns of queries, a product of tensor cores two of those rows: then the
// windows of its queries hold few keys more than the queries are, and warps outside the image idle.
template <int kHeight, int kWidth, int kChunk, int kOwn>
struct QueryTile {
  static constexpr TileSize kSize = {kHeight, kWidth, kChunk, kOwn};
  static constexpr int kRows = kHeight;
  static constexpr int kColumns = kWidth;
  static constexpr int kQueries = kRows * kColumns;
  static constexpr int kChunkKeys = kChunk;
  static constexpr int kOwnBiasKeys = kOwn;

  TRANSNEXT_INLINE static constexpr int row(int query) {
    const auto q = static_cast<unsigned>(query);
    return static_cast<int>(q / 32 / (kColumns / 8) * 4 + q % 32 / 8);
  }
  TRANSNEXT_INLINE static constexpr int column(int query) {
    const auto q = static_cast<unsigned>(query);
    return static_cast<int>(q / 32 % (kColumns / 8) * 8 + q % 8);
  }
};

// Wide for large grids; medium for those that would leave most of a wide one idle, and for global
// attention; small for grids of one such tile.
struct WideTile : QueryTile<8, 32, 64, 8> {};
struct MediumTile : QueryTile<8, 16, 32, 8> {};
struct SmallTile : QueryTile<8, 8, 16, 8> {};

// Windows that kernels are made for beside that of 3 x 3.
constexpr int kNoWindow = 0;    // global attention
constexpr int kAnyWindow = -1;  // read from global memory

// Of the tokens of a 3 x 3 window as columns of products: cuda/kernels/attention/forward/window_gemm.cuh.
constexpr int kTokenRows = 16;

// Bytes from one row of `channels` elements to the next: an odd number of pieces.
TRANSNEXT_INLINE constexpr int row_bytes(int channels, int element_bytes) {
  return (channels * element_bytes / kVector16Bytes | 1) * kVector16Bytes;
}

// Whether the forward kernels' rows follow each other without padding, every other four of them with
// their pieces exchanged pairwise: that keeps the banks apart too where pieces are twice an odd number.
TRANSNEXT_INLINE constexpr bool exchanges_vectors(int channels, int element_bytes) {
  return channels * element_bytes / kVector16Bytes % 4 == 2;
}
TRANSNEXT_INLINE constexpr int forward_row_bytes(int channels, int element_bytes) {
  return exchanges_vectors(channels, element_bytes) ? channels * element_bytes
                                                    : row_bytes(channels, element_bytes);
}

TRANSNEXT_INLINE constexpr int round_to_vector16(int bytes) {
  return (bytes + kVector16Bytes - 1) / kVector16Bytes * kVector16Bytes;
}

// Floats from one query's biases to the next where each has its own: then the lanes that read
// together, 8 queries by 4 keys on tensor cores and 32 queries elsewhere, find different banks.
TRANSNEXT_INLINE constexpr int bias_stride(TileSize tile, bool tensor_cores) {
  return tile.own_bias_keys + (tensor_cores ? 4 : 1);
}

// What the softmax keeps of a query in shared memory: where its keys and values are float,
struct alignas(16) RowTerms {
  float factor;   // scale times length scale
  int bias;       // the query's part of its biases' places
  float maximum;  // of the logits up to now
  float sum;      // of the weights
};
// and of 16-bit types, where q is multiplied as it is, and the state is in registers at first.
struct SoftmaxTerms {
  float maximum;  // as a power of two
  float sum;
};
struct alignas(16) GemmTerms {
  float norm;  // 1 / |q|
  float factor;
  union {
    const float* biases;   // while pooled keys are taken
    SoftmaxTerms softmax;  // then
  };
};
static_assert(sizeof(RowTerms) == sizeof(GemmTerms));

// What it needs of a pooled key.
struct alignas(16) KeyTerms {
  float norm;       // 1 / |k|
  float embedding;  // query embedding . k
  int bias;         // its part of its biases' places
  int unused;
};

// What a kernel multiplies, and where.
struct ForwardKind {
  int element;        // bytes of an element of the tensors
  bool tensor_cores;  // take the pooled QK^T and PV; the window's too if elements have 16 bits
};

// Offsets in bytes, as many as can be known to the compiler. The parts of the pooled keys, of the
// exchange and of the window follow each other in time and share their place.
struct ForwardLayout {
  int query_terms = 0;  // [queries] RowTerms or GemmTerms
  int embedding = 0;    // [kDim] floats
  int state = 0;        // a TileState
  int queries = 0;      // [queries] rows of T: q, at last the output

  int pooled = 0;     // [2][2][chunk] rows of T: keys, values
  int key_terms = 0;  // [chunk] KeyTerms
  int bias = 0;       // [queries][bias_stride] floats

  int exchange = 0;  // [queries][kDim + 4] floats

  int window_keys = 0;     // [halo] rows of T
  int window_values = 0;   // [halo] rows of T
  int window_norms = 0;    // [halo] floats, or pairs of floats with the embedding's products
  int tokens = 0;          // [L][kDim] floats, or [2][kTokenRows] rows of T
  int window_weights = 0;  // [L][queries] floats
  int window_terms = 0;    // [L] pairs of floats: local bias, token bias less the embedding's part

  int bytes = 0;

  TRANSNEXT_INLINE ForwardLayout(int channels, ForwardKind kind, TileSize tile, int window,
                                 bool has_bias) {
    const int queries_of_tile = tile.queries();
    const int row = forward_row_bytes(channels, kind.element);
    const bool narrow = kind.element == 2;  // pooled keys' and window's
    int end = 0;
    query_terms = reserve(end, queries_of_tile * static_cast<int>(sizeof(RowTerms)));
    embedding = reserve(end, channels * 4);
    state = reserve(end, 64);
    // From some time on the queries are in registers, and their place is free until the output needs
    // it: at once where they are float, after the pooled keys of 16-bit types with a 3 x 3 window.
    queries = end;
    const int after_queries = end + round_to_vector16(queries_of_tile * row);
    bytes = after_queries;
    const int window_start = narrow && window <= 0 ? after_queries : end;
    if (narrow) end = after_queries;
    const int start = end;

    pooled = reserve(end, 4 * tile.chunk_keys * row);
    key_terms = reserve(end, tile.chunk_keys * static_cast<int>(sizeof(KeyTerms)));
    bias = reserve(end, has_bias ? queries_of_tile * bias_stride(tile, kind.tensor_cores) * 4 : 4);
    if (end > bytes) bytes = end;

    end = start;
    if (narrow ? window == kAnyWindow : kind.tensor_cores)
      exchange = reserve(end, queries_of_tile * (channels + 4) * 4);
    if (end > bytes) bytes = end;

    end = window_start;
    if (window > 0) {
      const int cells = window * window;
      const int halo = (tile.rows + window - 1) * (tile.columns + window - 1);
      window_keys = reserve(end, halo * row);
      window_values = narrow ? reserve(end, halo * row) : window_keys;  // float: one by one
      window_norms = reserve(end, halo * (narrow ? 8 : 4));
      tokens = reserve(end, narrow ? 2 * kTokenRows * row : cells * channels * 4);
      window_weights = reserve(end, narrow ? 0 : cells * queries_of_tile * 4);
      window_terms = reserve(end, narrow ? 2 * 4 * 16 : cells * 8);
    }
    if (end > bytes) bytes = end;
  }

 private:
  TRANSNEXT_INLINE static int reserve(int& end, int bytes) {
    const int begin = end;
    end += round_to_vector16(bytes);
    return begin;
  }
};

}  // namespace transnext
