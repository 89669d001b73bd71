// The parameters of a head's window in global memory.
#pragma once

#include "transnext/aggregated_attention.h"

namespace transnext::device {

// A head's parameters, zero where absent.
struct WindowParameters {
  const float* local_bias;  // [L]
  index_t local_bias_stride;
  const float* tokens;  // [d, L]
  index_t token_strides[2];
  const float* token_bias;  // [L]
  index_t token_bias_stride;
  const float* embedding;  // [d]
  index_t embedding_stride;
  int channels;

  __device__ WindowParameters(const AggregatedAttentionInputs& in, index_t head)
      : local_bias(head_of(in.local_bias, head)),
        local_bias_stride(in.local_bias.stride[1]),
        tokens(head_of(in.tokens, head)),
        token_strides{in.tokens.stride[1], in.tokens.stride[2]},
        token_bias(head_of(in.token_bias, head)),
        token_bias_stride(in.token_bias.stride[1]),
        embedding(head_of(in.query_embedding, head)),
        embedding_stride(in.query_embedding.stride[1]),
        channels(static_cast<int>(in.q.shape[3])) {}

  __device__ bool has_tokens() const { return tokens != nullptr || token_bias != nullptr; }
  __device__ float bias_of(int cell) const {
    return local_bias == nullptr ? 0.0f : local_bias[cell * local_bias_stride];
  }
  __device__ float token(int cell, int channel) const {
    return tokens == nullptr || channel >= channels
               ? 0.0f
               : tokens[channel * token_strides[0] + cell * token_strides[1]];
  }
  __device__ float embedding_of(int channel) const {
    return embedding == nullptr || channel >= channels ? 0.0f
                                                       : embedding[channel * embedding_stride];
  }
  __device__ float token_bias_of(int cell) const {
    return token_bias == nullptr ? 0.0f : token_bias[cell * token_bias_stride];
  }
  // Of a row of a 3 x 3 window; row 3 has none.
  __device__ float4 bias_row(int row) const {
    return row == 3 ? float4{0.0f, 0.0f, 0.0f, 0.0f}
                    : float4{bias_of(3 * row), bias_of(3 * row + 1), bias_of(3 * row + 2), 0.0f};
  }
  __device__ float4 token_bias_row(int row) const {
    return row == 3 ? float4{0.0f, 0.0f, 0.0f, 0.0f}
                    : float4{token_bias_of(3 * row), token_bias_of(3 * row + 1),
                             token_bias_of(3 * row + 2), 0.0f};
  }
  // query . token
  template <int kDim, class Query>
  __device__ float dot_token(int cell, const Query& query) const {
    float sum = 0.0f;
    if (tokens == nullptr) return sum;
    const float* token = tokens + cell * token_strides[1];
#pragma unroll
    for (int channel = 0; channel < kDim; ++channel) {
      if (channel >= channels) break;
      sum += query[channel] * *token;
      token += token_strides[0];
    }
    return sum;
  }
  // token_bias - embedding . token
  __device__ float token_constant(int cell) const {
    float sum = token_bias_of(cell);
    if (tokens == nullptr) return sum;
    for (int channel = 0; channel < channels; ++channel)
      sum -= embedding_of(channel) * token(cell, channel);
    return sum;
  }

 private:
  template <int kRank>
  __device__ static const float* head_of(const View<kRank>& view, index_t head) {
    return view.present() ? static_cast<const float*>(view.data) + head * view.stride[0] : nullptr;
  }
};

}  // namespace transnext::device
