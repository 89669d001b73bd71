// Tiles of the fused attention kernels and what lies where in their shared memory: read by the
// kernels and by their launch plans.
//
// A block takes a tile of kRows x kColumns queries of one (image, head), one thread for each. Rows of
// keys, values and queries lie in shared memory as runs of 16 bytes, an odd number of them, so that
// neighbouring threads that read their rows meet no bank twice.
#pragma once

#include "transnext/tensor.h"

namespace transnext {

constexpr int kChunkKeys = 16;  // pooled keys that are in shared memory at a time, twice
constexpr int kPiece = 16;      // bytes

// A wide tile for large grids, a small one for grids that would leave most of a wide one idle.
struct WideTile {
  static constexpr int kRows = 8;
  static constexpr int kColumns = 32;
  static constexpr int kQueries = kRows * kColumns;
};
struct SmallTile {
  static constexpr int kRows = 8;
  static constexpr int kColumns = 8;
  static constexpr int kQueries = kRows * kColumns;
};

// Bytes from one row of `channels` elements to the next.
TRANSNEXT_INLINE constexpr int row_bytes(int channels, int element_bytes) {
  return (channels * element_bytes / kPiece | 1) * kPiece;
}

TRANSNEXT_INLINE constexpr int round_to_piece(int bytes) {
  return (bytes + kPiece - 1) / kPiece * kPiece;
}

constexpr TRANSNEXT_INLINE int bias_stride(int element_bytes) {
  return kChunkKeys + (element_bytes == 2 ? 4 : 1);
}

// A rectangle of the bias table that a tile reads while it takes a chunk of pooled keys: rows in a
// ring, since the next chunk's are mostly the same.
struct BiasRing {
  int rows = 0;   // a power of two, or 0: no ring
  int width = 0;  // floats of a row
};

// Offsets in bytes, as many as can be known to the compiler. The parts of the pooled keys, of the
// exchange and of the window follow each other in time and share their place.
struct ForwardLayout {
  int queries = 0;      // [queries] rows of T: q, at last the output
  int query_norms = 0;  // [queries] floats: 1 / |q|
  int factors = 0;      // [queries] floats: scale times length scale
  int embedding = 0;    // [kDim] floats
  int state = 0;        // a TileState

  int keys = 0;            // [2][kChunkKeys] rows of T
  int values = 0;          // [2][kChunkKeys] rows of T
  int key_norms = 0;       // [kChunkKeys] floats: 1 / |k|
  int key_embeddings = 0;  // [kChunkKeys] floats: query embedding . k / |k|
  int key_places = 0;      // [kChunkKeys] pairs of ints: the key's first table row and column
  int bias = 0;            // ring: [rows][width] floats; else [queries][bias_stride] floats
  int first_rows = 0;      // [Hp] ints
  int first_columns = 0;   // [Wp] ints

  int exchange = 0;  // [queries][kDim + 4] floats
  int sums = 0;      // [queries] pairs of floats: maximum, sum

  int window_keys = 0;    // [halo] rows of T
  int window_values = 0;  // [halo] rows of T
  int window_norms = 0;   // [halo] floats
  int tokens = 0;         // [L][kDim] floats
  int window_terms = 0;   // [L] pairs of floats: local bias, token bias less the embedding's part

  int bytes = 0;

  TRANSNEXT_INLINE ForwardLayout(int channels, int element, int tile_rows, int tile_columns,
                                 int window, bool has_bias, BiasRing ring, index_t pool_height,
                                 index_t pool_width) {
    const int tile = tile_rows * tile_columns;
    const int row = row_bytes(channels, element);
    const bool tensor_cores = element == 2;
    int end = 0;
    factors = take(end, tile * 4);
    query_norms = take(end, tensor_cores ? tile * 4 : 0);
    embedding = take(end, channels * 4);
    state = take(end, 64);
    // The threads of float kernels hold their queries in registers from the first read to the
    // output.
    queries = end;
    const int after_queries = end + round_to_piece(tile * row);
    bytes = after_queries;
    if (tensor_cores) end = after_queries;
    const int start = end;

    keys = take(end, 2 * kChunkKeys * row);
    values = take(end, 2 * kChunkKeys * row);
    key_norms = take(end, kChunkKeys * 4);
    key_embeddings = take(end, kChunkKeys * 4);
    key_places = take(end, kChunkKeys * 8);
    if (has_bias) {  // a ring's chunks may turn out not to fit it
      const int values = tile * bias_stride(element);
      bias = take(end, (ring.rows * ring.width > values ? ring.rows * ring.width : values) * 4);
    }
    if (ring.rows > 0) {
      first_rows = take(end, static_cast<int>(pool_height) * 4);
      first_columns = take(end, static_cast<int>(pool_width) * 4);
    }
    if (end > bytes) bytes = end;

    end = start;
    exchange = take(end, tensor_cores ? tile * (channels + 4) * 4 : 0);
    sums = take(end, tensor_cores ? tile * 8 : 0);
    if (end > bytes) bytes = end;

    end = start;
    const int halo = (tile_rows + window - 1) * (tile_columns + window - 1);
    if (window > 0) {
      window_keys = take(end, halo * row);
      window_values = tensor_cores ? take(end, halo * row) : window_keys;  // float: one by one
      window_norms = take(end, halo * 4);
      tokens = take(end, window * window * channels * 4);
      window_terms = take(end, window * window * 8);
    }
    if (end > bytes) bytes = end;
  }

 private:
  TRANSNEXT_INLINE static int take(int& end, int bytes) {
    const int begin = end;
    end += round_to_piece(bytes);
    return begin;
  }
};

}  // namespace transnext
