// Common to the kernels of aggregated_attention's backward and their launch plan: tile sizes, and
// offsets into shared memory and the workspace.
#pragma once

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

struct AttentionBackwardPlan {
  int tile_height, tile_width;  // owned tokens of a block
  int tiles_y, tiles_x;
  AttentionTokenShared shared;
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
