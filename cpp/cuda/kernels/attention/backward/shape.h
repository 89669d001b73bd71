// Common to the kernels of aggregated_attention's backward and their launch plan: tile sizes, and
// offsets into shared memory and the workspace.
#pragma once

#include "cuda/kernels/attention/shape.h"
#include "transnext/aggregated_attention.h"

namespace transnext {

constexpr int kAttentionTokenThreads = 256;  // of a block that owns a tile of tokens
constexpr int kAttentionMostTokens = 128;    // that it owns
constexpr int kAttentionStateBytes = 80;     // that describe it in shared memory
constexpr int kAttentionPartialSumBytes =
    kAttentionTokenThreads * 32;              // of the parameters' gradients
constexpr int kAttentionPooledThreads = 128;  // of one that owns a tile of pooled keys
constexpr int kAttentionBiasThreads = 256;
constexpr int kAttentionSumLanes = 32;
constexpr int kAttentionSumRows = 8;
constexpr int kAttentionStagedWeights = 20;  // floats from row to row of a warp's weights
constexpr int kAttentionPoolTile = 64;       // pooled keys in shared memory at a time

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

// Byte offsets into the shared memory of a block that owns a tile of tokens.
struct AttentionTokenShared {
  int state;  // the block's rectangles
  // T rows: queries and output gradients within reach of the tile's keys, and keys and values
  // within reach of those queries. Pooled keys, values and normalised keys overwrite the values;
  // the warps' partial sums of the parameter gradients overwrite the pooled keys.
  int query, d_out, key, value, pool_key, pool_value, pool_unit;
  int order, bias_offset;  // ints per query: the owned ones first; offset of its biases
  // floats per query; a weight is 2^(logit log2(e) + offset)
  int query_inverse, d_out_norm, length_scale, offset, delta, total;
  // floats per key, per pooled key
  int key_inverse, key_embedding, pool_inverse, pool_embedding;
  // floats per query and window cell: a_j (later d_l_j), D_j, w_j
  int probability, d_weight, weight;
  int gradient;                // floats per owned query and channel
  int d_scale;                 // floats per owned query
  int tokens;                  // floats [L][channels]
  int embedding;               // floats per channel
  int local_bias, token_bias;  // floats per window cell
  int pool_row, pool_column;   // ints per pooled key: bias offset or pooled row, pooled column
  int bytes;
};

// 16-bit types with a window of 3 x 3: backward/strip.cuh.
constexpr int kStripColumns = 16;                    // of queries, the outer two not owned
constexpr int kStripKeyColumns = kStripColumns + 2;  // with those that their windows see
constexpr int kStripMostRows = 8;                    // of queries in a step,
constexpr int kStripFewerRows = 6;                   // and where less shared memory is
constexpr int kStripChunkKeys = 56;                  // pooled keys whose weights a warp holds
constexpr int kStripOwnBiasKeys = 8;  // the same where biases are computed for each query
constexpr int kStripPoolRows = 64;    // the same in whole MMAs
constexpr int kStripSlotWords = 8;    // of a query's D_j as columns of MMAs, each of 16 bits
constexpr int kStripStateBytes = 80;
constexpr int kStripTensorBytes = 7 * 24 + 8;

// The terms of a query of the step; lengths, which its keys need too, are beside.
struct alignas(16) StripQuery {
  float norm;        // 1 / |q|
  float d_out_norm;  // |d_out|
  float offset;      // a weight is 2^(logit log2(e) + offset)
  int bias;          // offset into the biases
};
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
  int pool_keys = 0;       // [kStripPoolRows] rows
  int pool_values = 0;     // [kStripChunkKeys] rows
  int pool_terms = 0;      // [kStripPoolRows] KeyTerms
  int query_terms = 0;     // [rows][kStripColumns] StripQuery
  int keys = 0;            // [rows + 2][kStripKeyColumns] rows, and some more for whole MMAs
  int values = 0;          // the same without these
  int key_terms = 0;       // as `keys`, of StripKey
  int queries = 0;         // [rows + 2][kStripColumns] rows: queries, later unit vectors
  int d_outs = 0;
  int lengths = 0;   // the same of floats: length scale
  int d_logits = 0;  // the same of floats [9]: d_l_j
  int weights = 0;   // the same of T [9]: w_j
  int slots = 0;     // [rows][kStripColumns][kStripSlotWords]
  int zeros_end = 0;
  int bytes = 0;

  TRANSNEXT_INLINE StripLayout() {}
  TRANSNEXT_INLINE StripLayout(int channels, int rows) {
    const int row = forward_row_bytes(channels, 2);
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
    zeros = bytes;
    reserve(pool_keys, kStripPoolRows * row);
    reserve(pool_values, kStripChunkKeys * row);
    reserve(pool_terms, kStripPoolRows * static_cast<int>(sizeof(KeyTerms)));
    reserve(query_terms, step * static_cast<int>(sizeof(StripQuery)));
    reserve(keys, all_keys * row);
    reserve(values, (rows + 2) * kStripKeyColumns * row);
    reserve(key_terms, all_keys * static_cast<int>(sizeof(StripKey)));
    reserve(queries, all * row);
    reserve(d_outs, all * row);
    reserve(lengths, all * 4);
    reserve(d_logits, all * 9 * 4);
    reserve(weights, all * 9 * 2);
    reserve(slots, step * kStripSlotWords * 4);
    zeros_end = bytes;
  }
};

struct AttentionBackwardPlan {
  int tile_height, tile_width;  // owned tokens of a block
  int tiles_y, tiles_x;
  AttentionTokenShared shared;
  StripLayout strip;  // in the place of `shared`, where tiles are strips
  int strip_rows;     // of queries in a step; 0: tiles are no strips
  bool vectors;       // strips: rows of all [B, N, h, d] tensors are whole aligned vectors
  int slices, slice;  // of the queries on the pooled side; queries per slice
  int parameters;     // floats of a block's sums for the parameters' gradients
  // Offsets into the workspace, in floats.
  // [B, h, N, 4]: log(keys) scale / |q|, log(keys) scale, -log_sum_exp / ln 2, delta.
  index_t query_terms;
  index_t parameter_sums;  // [B tiles, h, parameters]
  index_t pooled_sums;     // [slices, B, h, P, 2, d]
  index_t row_sums;        // [h, H, Hp, S]
  bool table_atomics;
};

// The argument of all these kernels.
struct AggregatedAttentionBackwardLaunch {
  AggregatedAttentionBackwardParams params;
  AttentionBackwardPlan plan;
  float* workspace;
};

}  // namespace transnext
