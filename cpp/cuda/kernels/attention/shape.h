// Tiles of the fused attention kernels and the layout of their shared memory, for the kernels and
// their launch plans.
//
// A block computes a tile of kRows x kColumns queries of one (image, head), one thread per query.
// Rows of keys, values and queries lie in shared memory as 16-byte vectors, arranged so that
// neighbouring threads that read their rows have no bank conflicts.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kVector16Bytes = 16;  // bytes
constexpr int kMostChannels = 128;  // head dim of the largest kernels

struct TileSize {
  int rows, columns;  // of queries
  int chunk_keys;     // pooled keys in shared memory at a time, double-buffered
  int own_bias_keys;  // the same where biases are computed for each query

  TRANSNEXT_INLINE constexpr int queries() const { return rows * columns; }
};

// A warp has 4 rows and 8 columns of queries, an MMA two of those rows: the windows of its queries
// then hold few more keys than there are queries, and warps outside the image do no work.
constexpr int kWarpRows = 4;
constexpr int kWarpColumns = 8;
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

// Wide for large grids; medium for grids that would leave most of a wide tile idle, and for global
// attention; small otherwise.
struct WideTile : QueryTile<8, 32, 64, 8> {};
struct MediumTile : QueryTile<8, 16, 32, 8> {};
struct SmallTile : QueryTile<8, 8, 16, 8> {};

// Windows with kernels of their own, besides 3 x 3.
constexpr int kNoWindow = 0;    // global attention of head dims up to 24
constexpr int kAnyWindow = -1;  // read from global memory

// Rows of the tokens of a 3 x 3 window as MMA columns:
// cuda/kernels/attention/window_products.cuh.
constexpr int kTokenRows = 16;

// Whether rows follow each other without padding, with the vectors of every other group of four rows
// exchanged pairwise where threads read a row each (SharedRows): this also avoids bank conflicts where
// a row has twice an odd number of vectors.
TRANSNEXT_INLINE constexpr bool exchanges_vectors(int channels, int element_bytes) {
  return channels * element_bytes / kVector16Bytes % 4 == 2;
}
// Bytes from one row of `channels` elements to the next: an odd number of vectors elsewhere.
TRANSNEXT_INLINE constexpr int row_bytes(int channels, int element_bytes) {
  const int vectors = channels * element_bytes / kVector16Bytes;
  return (exchanges_vectors(channels, element_bytes) ? vectors : vectors | 1) * kVector16Bytes;
}

TRANSNEXT_INLINE constexpr int round_to_vector16(int bytes) {
  return (bytes + kVector16Bytes - 1) / kVector16Bytes * kVector16Bytes;
}

// Floats from one query's computed biases to the next: the lanes that read together, 8 queries by 4
// keys on tensor cores and 32 queries elsewhere, then use different banks.
TRANSNEXT_INLINE constexpr int bias_stride(TileSize tile, bool tensor_cores) {
  return tile.own_bias_keys + (tensor_cores ? 4 : 1);
}

// The softmax's terms of a query in shared memory: where keys and values are float,
struct alignas(16) RowTerms {
  float factor;   // scale times length scale
  int bias;       // the query's offset into the biases
  float maximum;  // of the logits so far; on tensor cores an offset as below
  float sum;      // of the weights
};
// and for 16-bit types, where q is multiplied in its storage type and the state starts in
// registers.
struct SoftmaxTerms {
  float offset;  // a weight is 2^(logit log2(e) + offset)
  float sum;
};
struct alignas(16) GemmTerms {
  float norm;  // 1 / |q|
  float factor;
  union {
    const float* biases;   // during the pooled keys
    SoftmaxTerms softmax;  // afterwards
  };
};
static_assert(sizeof(RowTerms) == sizeof(GemmTerms));

// The softmax's terms of a pooled key.
struct alignas(16) KeyTerms {
  float norm;       // 1 / |k|
  float embedding;  // query embedding . k
  index_t bias;     // its offset into the biases, bytes

  TRANSNEXT_INLINE float bias_of(const float* query) const {
    return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(query) + bias);
  }
};
static_assert(sizeof(KeyTerms) == 16);

// Element type of a kernel, and whether it uses tensor cores.
struct ForwardKind {
  int element;        // bytes of an element of the tensors
  bool tensor_cores;  // for the pooled QK^T and PV, and for the window if elements have 16 bits
};

// Offsets in bytes, most of them known at compile time. The pooled keys, the exchange and the
// window are used one after the other and share memory.
struct ForwardLayout {
  int query_terms = 0;     // [queries] RowTerms or GemmTerms
  int embedding = 0;       // [kDim] floats
  int embedding_rows = 0;  // 16-bit types: EmbeddingRows
  int state = 0;           // a TileState
  int queries = 0;         // [queries] rows of T: q, finally the output

  int pooled = 0;     // [2][2][chunk] rows of T: keys, values
  int key_terms = 0;  // [chunk] KeyTerms
  int bias = 0;       // [queries][bias_stride] floats

  int exchange = 0;  // [queries][kDim + 4] floats

  int window_keys = 0;     // [halo] rows of T
  int window_values = 0;   // [halo] rows of T
  int window_norms = 0;    // [halo] floats, or pairs with embedding . key, rounded up to 16
  int tokens = 0;          // [L][kDim] floats, or [2][kTokenRows] rows of T
  int window_weights = 0;  // [L][queries] floats
  int window_terms = 0;    // [L] pairs of floats: local bias, token bias minus embedding . token

  int bytes = 0;

  TRANSNEXT_INLINE ForwardLayout(int channels, ForwardKind kind, TileSize tile, int window,
                                 bool has_bias) {
    const int queries_of_tile = tile.queries();
    const int row = row_bytes(channels, kind.element);
    const bool narrow = kind.element == 2;  // 16-bit types: both parts on tensor cores
    int end = 0;
    query_terms = reserve(end, queries_of_tile * static_cast<int>(sizeof(RowTerms)));
    embedding = reserve(end, channels * 4);
    embedding_rows = reserve(end, narrow ? channels * 4 + 4 : 0);
    state = reserve(end, 64);
    // Once the queries are in registers, their memory is free until the output needs it:
    // immediately for float, after the pooled keys for 16-bit types with a 3 x 3 window.
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
      window_values =
          narrow ? reserve(end, halo * row) : window_keys;  // float: first keys, then values
      window_norms = reserve(end, narrow ? (halo + 15) / 16 * 16 * 8 : halo * 4);
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
