// The arguments common to aggregated attention and its fused block.
#pragma once

#include "bindings/call.h"
#include "transnext/aggregated_attention.h"

namespace transnext::bindings {

struct AttentionParameters {
  py::handle scale, query_embedding, local_bias, pool_bias, row_map, col_map, col_weights;
  py::handle tokens, token_bias;
};

// Reads only grids and window; all tensors are absent.
AggregatedAttentionInputs read_attention_sizes(const Call& call, GridArgument grid,
                                               GridArgument pool_grid, index_t window_size);

// Fills in the parameters of `heads` heads of `channels` channels.
void read_attention_parameters(Call& call, const AttentionParameters& from, index_t heads,
                               index_t channels, AggregatedAttentionInputs& in);

}  // namespace transnext::bindings
