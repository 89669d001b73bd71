// Common to the kernels of aggregated_attention's backward and their launch plan: tile sizes, and
// offsets into shared memory and the workspace.
#pragma once

#include "cuda/kernels/attention/shape.h"
#include "transnext/aggregated_attention.h"

namespace transnext {

constexpr int kAttentionTileThreads = 256;    // of a block that owns a tile of tokens
constexpr int kAttentionMostTokens = 128;     // that it owns
constexpr int kTileStateBytes = 96;           // that describe it
constexpr int kAttentionPooledThreads = 128;  // of a block that owns a tile of pooled keys
constexpr int kAttentionPoolTile = 64;        // of that many
constexpr int kAttentionBiasThreads = 256;
constexpr int kAttentionSumLanes = 32;
constexpr int kAttentionSumRows = 8;

// Pooled keys beside a block's queries.
constexpr int kPooledChunkKeys = 56;   // whose weights a warp holds
constexpr int kPooledOwnBiasKeys = 8;  // the same where biases are computed for each query
constexpr int kOwnBiasStride = 9;      // floats from one query's biases to the next's
constexpr int kPooledChunkRows = 64;   // whole MMAs of them

// Whether tiles have code of their own for all pooled keys at once. Elsewhere values are whole MMAs too.
TRANSNEXT_INLINE constexpr bool attention_tiles_at_once(int channels) {
  return channels == 24;
}
TRANSNEXT_INLINE constexpr int attention_pooled_values(int channels) {
  return attention_tiles_at_once(channels) ? kPooledChunkKeys : kPooledChunkRows;
}

// Queries in shared memory beside a tile of pooled keys, and the number of such tiles: where there
// is room, the next one is copied while a block works on the current one.
TRANSNEXT_INLINE constexpr bool attention_pooled_waits(int channels, int element_bytes) {
  return channels * element_bytes > 64;
}
TRANSNEXT_INLINE constexpr int attention_pooled_queries(int channels, int element_bytes) {
  return attention_pooled_waits(channels, element_bytes) ? 32 : 64;
}
TRANSNEXT_INLINE constexpr int attention_pooled_buffers(int channels, int element_bytes) {
  return attention_pooled_waits(channels, element_bytes) ? 1 : 2;
}

// The terms of a query; lengths, which its keys need too, are beside.
struct alignas(16) BackwardQuery {
  float norm;        // 1 / |q|
  float d_out_norm;  // |d_out| of 16-bit types, else 1
  float offset;      // a weight is 2^(logit log2(e) + offset)
  int bias;          // offset into the biases
};

// A block that owns a tile of tokens: backward/tile.cuh. Offsets in bytes; pooled keys and later sums take
// the place of the values.
struct TileLayout {
  int state = 0;           // a TileState
  int queries = 0;         // [queries within reach of the tile's keys] rows
  int d_outs = 0;          // the same
  int keys = 0;            // [keys within reach of these queries] rows
  int values = 0;          // the same
  int pool_keys = 0;       // [kPooledChunkRows] rows
  int pool_values = 0;     // [attention_pooled_values] rows
  int pool_terms = 0;      // [kPooledChunkRows] KeyTerms
  int own_biases = 0;      // [queries][kOwnBiasStride] floats
  int sums = 0;            // [kAttentionTileThreads][8] floats, of the parameters' gradients
  int order = 0;           // [queries] ints: the queries' indices, the owned ones first
  int query_terms = 0;     // [queries] BackwardQuery
  int lengths = 0;         // [queries] floats: length scale
  int deltas = 0;          // [queries] pairs of floats: delta, sum of the probabilities
  int key_terms = 0;       // [keys] pairs of floats: 1 / |k|, embedding . k / |k|
  int d_logits = 0;        // [queries][L] floats: a_j, later d_l_j
  int d_weights = 0;       // the same: D_j
  int weights = 0;         // the same: w_j
  int gradients = 0;       // [owned][kDim] floats
  int d_scales = 0;        // [owned] floats
  int tokens = 0;          // [L][kDim] floats
  int embedding = 0;       // [kDim] floats
  int embedding_rows = 0;  // 16-bit types: EmbeddingRows
  int window_terms = 0;    // [L] pairs of floats: local bias, token bias
  int bytes = 0;

  // Of `own` tokens, which with those around are so many queries and keys.
  TRANSNEXT_INLINE TileLayout() {}
  TRANSNEXT_INLINE TileLayout(int channels, int element_bytes, index_t cells, index_t own,
                              index_t query_count, index_t key_count) {
    const index_t row = row_bytes(channels, element_bytes);
    constexpr index_t kTooLarge = 1 << 30;  // callers may pass any window size
    const auto reserve = [&](int& offset, index_t size) {
      offset = bytes;
      const index_t end = bytes + (size + kVector16Bytes - 1) / kVector16Bytes * kVector16Bytes;
      bytes = static_cast<int>(end < kTooLarge ? end : kTooLarge);
    };
    reserve(state, kTileStateBytes);
    reserve(queries, query_count * row);
    reserve(d_outs, query_count * row);
    reserve(keys, key_count * row);
    reserve(values, key_count * row);
    const int after_values = bytes;
    bytes = values;
    reserve(sums, kAttentionTileThreads * 8 * 4);
    const int after_sums = bytes;
    bytes = values;
    reserve(pool_keys, kPooledChunkRows * row);
    reserve(pool_values, attention_pooled_values(channels) * row);
    reserve(pool_terms, kPooledChunkRows * static_cast<int>(sizeof(KeyTerms)));
    reserve(own_biases, query_count * kOwnBiasStride * 4);
    if (bytes < after_values) bytes = after_values;
    if (bytes < after_sums) bytes = after_sums;
    reserve(order, query_count * 4);
    reserve(query_terms, query_count * static_cast<int>(sizeof(BackwardQuery)));
    reserve(lengths, query_count * 4);
    reserve(deltas, query_count * 8);
    reserve(key_terms, key_count * 8);
    reserve(d_logits, query_count * cells * 4);
    reserve(d_weights, query_count * cells * 4);
    reserve(weights, query_count * cells * 4);
    reserve(gradients, own * channels * 4);
    reserve(d_scales, own * 4);
    reserve(tokens, cells * channels * 4);
    reserve(embedding, channels * 4);
    reserve(embedding_rows, element_bytes == 2 ? channels * 4 + 4 : 0);
    reserve(window_terms, cells * 8);
  }
};

// 16-bit types with a window of 3 x 3: backward/strip.cuh.
constexpr int kStripColumns = 16;                    // of queries, the outer two not owned
constexpr int kStripKeyColumns = kStripColumns + 2;  // with those that their windows see
constexpr int kStripMostRows = 8;                    // of queries in a step,
constexpr int kStripFewerRows = 6;                   // and where less shared memory is
constexpr int kStripSlotWords = 8;  // of a query's D_j as columns of MMAs, each of 16 bits
constexpr int kStripWeightBytes = kPooledChunkKeys * 2;  // of a query's weights of pooled keys
static_assert(kStripWeightBytes / kVector16Bytes % 2 == 1,
              "rows of queries without bank conflicts");
// Whether strips may own pooled keys' gradients: two blocks have room for them on no GPU of today
// elsewhere.
TRANSNEXT_INLINE constexpr bool strips_may_own_pooled(int channels) {
  return channels == 24;
}
constexpr int kStripStateBytes = 80;
constexpr int kStripTensorBytes = 7 * 24 + 8;

// The terms of a key.
struct alignas(16) StripKey {
  float norm;       // 1 / the length of the row in shared memory
  float embedding;  // query embedding . that row
  float inverse;    // 1 / |k|
  float none;
};

// Offsets in bytes.
struct StripLayout {
  int state = 0;           // a StripState
  int tensors = 0;         // StripTensors
  int embedding = 0;       // [kDim] floats
  int embedding_rows = 0;  // EmbeddingRows
  int tokens = 0;          // [2][kTokenRows] rows
  int window_terms = 0;    // [2][4] float4: biases of a window row, token biases
  int zeros = 0;           // from here on zero at first: MMAs read rows that are never loaded
  int pool_keys = 0;       // [kPooledChunkRows] rows
  int pool_values = 0;     // [kPooledChunkKeys] rows
  int pool_terms = 0;      // [kPooledChunkRows] KeyTerms
  int query_terms = 0;     // [rows][kStripColumns] BackwardQuery
  int keys = 0;            // [rows + 2][kStripKeyColumns] rows, and some more for whole MMAs
  int values = 0;          // the same without these
  int key_terms = 0;       // as `keys`, of StripKey
  int queries = 0;         // [rows + 2][kStripColumns] rows: queries, later unit vectors
  int d_outs = 0;
  int lengths = 0;   // the same of floats: length scale
  int d_logits = 0;  // the same of floats [9]: d_l_j
  int weights = 0;   // the same of T [9]: w_j
  int slots = 0;     // [rows][kStripColumns][kStripSlotWords]
  // Where strips own pooled keys' gradients:
  int ones = 0;             // [8] of T
  int pooled_weights = 0;   // [2][rows][kStripColumns][kPooledChunkKeys] of T: d_l_m, a_m
  int pooled_sums = 0;      // [tiles of eight keys][kDim / 8][32 lanes] float4
  int pooled_embedded = 0;  // [tiles of eight keys][4] float2
  int zeros_end = 0;
  int bytes = 0;

  TRANSNEXT_INLINE StripLayout() {}
  TRANSNEXT_INLINE StripLayout(int channels, int rows, bool pooled) {
    const int row = row_bytes(channels, 2);
    const int step = rows * kStripColumns;
    const int all = step + 2 * kStripColumns;
    // Keys are scaled 16 at a time.
    const int first_keys = ((rows + 2) * kStripKeyColumns + 15) / 16 * 16;
    const int next_keys = 2 * kStripKeyColumns + (rows * kStripKeyColumns + 15) / 16 * 16;
    const int all_keys = first_keys > next_keys ? first_keys : next_keys;
    const auto reserve = [&](int& offset, int size) {
      offset = bytes;
      bytes += round_to_vector16(size);
    };
    reserve(state, kStripStateBytes);
    reserve(tensors, kStripTensorBytes);
    reserve(embedding, channels * 4);
    reserve(embedding_rows, channels * 4 + 4);
    reserve(tokens, 2 * kTokenRows * row);
    reserve(window_terms, 2 * 4 * 16);
    if (pooled) reserve(ones, kVector16Bytes);
    zeros = bytes;
    reserve(pool_keys, kPooledChunkRows * row);
    reserve(pool_values, kPooledChunkKeys * row);
    reserve(pool_terms, kPooledChunkRows * static_cast<int>(sizeof(KeyTerms)));
    reserve(query_terms, step * static_cast<int>(sizeof(BackwardQuery)));
    reserve(keys, all_keys * row);
    reserve(values, (rows + 2) * kStripKeyColumns * row);
    reserve(key_terms, all_keys * static_cast<int>(sizeof(StripKey)));
    reserve(queries, all * row);
    reserve(d_outs, all * row);
    reserve(lengths, all * 4);
    reserve(d_logits, all * 9 * 4);
    reserve(weights, all * 9 * 2);
    reserve(slots, step * kStripSlotWords * 4);
    if (pooled) {
      constexpr int kTiles = kPooledChunkKeys / 8;
      reserve(pooled_weights, 2 * step * kStripWeightBytes);
      reserve(pooled_sums, kTiles * channels / 8 * 32 * 16);
      reserve(pooled_embedded, kTiles * 4 * 8);
    }
    zeros_end = bytes;
  }
};

struct AttentionBackwardPlan {
  int tile_height, tile_width;  // owned tokens of a block
  int tiles_y, tiles_x;
  TileLayout tile;
  StripLayout strip;      // in the place of `tile`, where tiles are strips
  int strip_rows;         // of queries in a step; 0: tiles are no strips
  bool strip_pooled;      // strips own the pooled keys' gradients
  bool query_terms_stay;  // in the workspace, for other kernels
  bool vectors;           // rows of all [B, N, h, d] tensors are whole aligned vectors
  int slices, slice;      // of the queries on the pooled side; queries per slice
  int parameters;         // floats of a block's sums for the parameters' gradients
  // Offsets into the workspace, in floats.
  // [B, h, N, 4]: log(keys) scale / |q|, log(keys) scale, -log_sum_exp / ln 2, delta.
  index_t query_terms;
  index_t parameter_sums;  // [B tiles, h, parameters]
  index_t pooled_sums;     // [slices, B, h, P, 2, d]; strips that own pooled keys are slices
  index_t row_sums;        // [h, H, Hp, S]
  bool table_atomics;

  // Where a slice's pooled sums of an (image, head) begin.
  TRANSNEXT_INLINE index_t pooled_sums_of(const AggregatedAttentionInputs& in, index_t slice,
                                          index_t batch, index_t head) const {
    const index_t heads = in.q.shape[2];
    return pooled_sums + ((slice * in.q.shape[0] + batch) * heads + head) * in.k_pool.shape[1] * 2 *
                             in.q.shape[3];
  }
};

// The argument of all these kernels.
struct AggregatedAttentionBackwardLaunch {
  AggregatedAttentionBackwardParams params;
  AttentionBackwardPlan plan;
  float* workspace;
};

}  // namespace transnext
