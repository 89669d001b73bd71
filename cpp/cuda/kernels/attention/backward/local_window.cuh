// aggregated_attention backward, the tokens' side: weights of the window and their gradients, and
// the gradients of the block's queries, keys and values.
#pragma once

#include "cuda/kernels/attention/backward/tokens_pooled.cuh"

namespace transnext::device {

template <class T, int kDim>
class TokenWindow : public TokenPooled<T, kDim> {
 protected:
  using Tile = TokenTile<T, kDim>;
  using TokenPooled<T, kDim>::TokenPooled;
  using Tile::kChunks, Tile::kLaneChunks, Tile::kSumsAlong, Tile::thread, Tile::smaller,
      Tile::height, Tile::width, Tile::window, Tile::cells, Tile::floats, Tile::row, Tile::token,
      Tile::owned_query, Tile::p_, Tile::in_, Tile::plan_, Tile::workspace_, Tile::heads,
      Tile::head, Tile::batch, Tile::scale, Tile::owned, Tile::queries, Tile::halo_keys,
      Tile::inside;

  // a_j, D_j, w_j of every query: a thread computes three cells of one query.
  __device__ void local_weights() {
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    constexpr int kRun = 3;
    const AttentionTokenShared& at = plan_.shared;
    const int runs = (cells() + kRun - 1) / kRun;
#pragma unroll 1
    for (int item = thread(); item < queries.cells() * runs; item += kAttentionTokenThreads) {
      const int i = item / runs;
      const int first = item % runs * kRun;
      const int y = queries.row(i);
      const int x = queries.column(i);
      int key[kRun], cell[kRun];
      float logit[kRun] = {}, d_weight[kRun] = {}, positional[kRun] = {};
      int down = first / window();
      int right = first - down * window();
#pragma unroll
      for (int r = 0; r < kRun; ++r) {
        cell[r] = smaller(first + r, cells() - 1);
        const int key_y = y + down - window() / 2;
        const int key_x = x + right - window() / 2;
        const bool seen = first + r < cells() && inside(key_y, key_x);
        key[r] = seen ? keys.index(key_y, key_x) : -1;
        if (++right == window()) {
          right = 0;
          ++down;
        }
      }
#pragma unroll(kDim <= 32 ? kChunks : 1)
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        float q[8], d_out[8];
        load_vec8(row(at.query, i) + chunk * 8, q);
        load_vec8(row(at.d_out, i) + chunk * 8, d_out);
#pragma unroll
        for (int r = 0; r < kRun; ++r) {
          const int at_key = key[r] < 0 ? 0 : key[r];
          logit[r] = dot_vec8(row(at.key, at_key) + chunk * 8, q, logit[r]);
          d_weight[r] = dot_vec8(row(at.value, at_key) + chunk * 8, d_out, d_weight[r]);
          positional[r] =
              dot_vec8(floats(at.tokens) + cell[r] * kDim + chunk * 8, q, positional[r]);
        }
      }
      const float inverse = floats(at.query_inverse)[i];
      const float scaling = scale() * floats(at.length_scale)[i];
#pragma unroll
      for (int r = 0; r < kRun; ++r) {
        if (first + r >= cells()) break;
        float probability = 0.0f, weight = 0.0f;
        if (key[r] >= 0) {
          const float value = scaling * (logit[r] * inverse * floats(at.key_inverse)[key[r]] +
                                         floats(at.key_embedding)[key[r]]) +
                              floats(at.local_bias)[cell[r]];
          probability = exp2_fast(value * kLog2E + floats(at.offset)[i]);
          weight = probability + positional[r] * inverse + floats(at.token_bias)[cell[r]];
        } else {
          d_weight[r] = 0.0f;
        }
        floats(at.probability)[i * cells() + first + r] = probability;
        floats(at.d_weight)[i * cells() + first + r] = d_weight[r];
        floats(at.weight)[i * cells() + first + r] = weight;
      }
    }
  }

  __device__ void sum_local_delta() {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int i = thread(); i < queries().cells(); i += kAttentionTokenThreads) {
      float sum = 0.0f, total = 0.0f;
#pragma unroll 1
      for (int j = 0; j < cells(); ++j) {
        const float probability = floats(at.probability)[i * cells() + j];
        sum += probability * floats(at.d_weight)[i * cells() + j];
        total += probability;
      }
      floats(at.delta)[i] = sum;
      floats(at.total)[i] = total;
    }
  }

  // Overwrites a_j with d_l_j, and stores the owned queries' terms for the pooled side.
  __device__ void local_logit_gradients() {
    const Rectangle owned = this->owned();
    const int count = this->queries().cells() * cells();
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int item = thread(); item < count; item += kAttentionTokenThreads)
      floats(at.probability)[item] *= floats(at.d_weight)[item] - floats(at.delta)[item / cells()];
    const index_t tokens = in_.grid.size();
    float4* terms = reinterpret_cast<float4*>(workspace_ + plan_.query_terms) +
                    (index_t{batch()} * heads() + head()) * tokens;
#pragma unroll 1
    for (int own = thread(); own < owned.cells(); own += kAttentionTokenThreads) {
      const int i = owned_query(own);
      const float scaling = scale() * floats(at.length_scale)[i];
      terms[token(owned.row(own), owned.column(own))] =
          float4{scaling * floats(at.query_inverse)[i], scaling, floats(at.offset)[i],
                 floats(at.delta)[i]};
    }
  }

  // Gradient of a vector x through its normalisation; `gradient` is that of x inverse. Four lanes
  // hold x.
  static __device__ void through_normalisation(const T* x, float inverse, int lane,
                                               float (&gradient)[kLaneChunks][8]) {
    float along = 0.0f;
#pragma unroll
    for (int l = 0; l < kLaneChunks; ++l) {
      const int chunk = lane + 4 * l;
      if (chunk < kChunks) along = dot_vec8(x + chunk * 8, gradient[l], along);
    }
    along = sum_of_four(along) * inverse;
    if (inverse >= 1.0f / kNormEpsilon) along = 0.0f;
#pragma unroll
    for (int l = 0; l < kLaneChunks; ++l) {
      const int chunk = lane + 4 * l;
      if (chunk >= kChunks) continue;
      float unit[8];
      load_vec8(x + chunk * 8, unit);
#pragma unroll
      for (int c = 0; c < 8; ++c)
        gradient[l][c] = (gradient[l][c] - unit[c] * inverse * along) * inverse;
    }
  }

  // Calls visit(y, x, j) for the tokens inside the image of a window whose corner is (top, left).
  template <class Visit>
  __device__ void for_cells(int top, int left, const Visit& visit) const {
    const int first_y = top > 0 ? top : 0;
    const int first_x = left > 0 ? left : 0;
    const int end_y = smaller(top + window(), height());
    const int end_x = smaller(left + window(), width());
    for (int y = first_y; y < end_y; ++y) {
#pragma unroll 1
      for (int x = first_x; x < end_x; ++x) visit(y, x, (y - top) * window() + x - left);
    }
  }

  __device__ void query_gradients() {
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    const AttentionTokenShared& at = plan_.shared;
    const int lane = thread() % 4;
    const TokenRows<T> d_q(p_.d_q, batch(), head());
#pragma unroll 1
    for (int item = thread() / 4; item < (owned.cells() + 7) / 8 * 8;
         item += kAttentionTokenThreads / 4) {
      const bool valid = item < owned.cells();
      const int own = valid ? item : 0;
      const int y = owned.row(own);
      const int x = owned.column(own);
      const int i = queries.index(y, x);
      const float inverse = floats(at.query_inverse)[i];
      const float length = floats(at.length_scale)[i];
      const float scaling = scale() * length;
      float gradient[kLaneChunks][8] = {};
      float along = 0.0f;
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        const int chunk = lane + 4 * l;
        if (chunk >= kChunks || !valid) continue;
        float* shared_gradient = floats(at.gradient) + own * kDim + chunk * 8;
        float positional[8] = {};
        for_cells(y - window() / 2, x - window() / 2, [&](int key_y, int key_x, int j) {
          const int key = keys.index(key_y, key_x);
          const float d_logit =
              floats(at.probability)[i * cells() + j] * floats(at.key_inverse)[key];
          const float d_weight = floats(at.d_weight)[i * cells() + j];
          float k[8], token[8];
          load_vec8(row(at.key, key) + chunk * 8, k);
          load_vec8(floats(at.tokens) + j * kDim + chunk * 8, token);
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            gradient[l][c] += d_logit * k[c];
            positional[c] += d_weight * token[c];
          }
        });
        float q[8], from_pooled[8];
        load_vec8(row(at.query, i) + chunk * 8, q);
        load_vec8(shared_gradient, from_pooled);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          const float embedded = q[c] * inverse + floats(at.embedding)[chunk * 8 + c];
          const float both = gradient[l][c] + from_pooled[c];
          along += (kSumsAlong ? gradient[l][c] : both) * embedded;
          gradient[l][c] = both * scaling;
        }
        store_vec8(gradient[l], shared_gradient);
#pragma unroll
        for (int c = 0; c < 8; ++c) gradient[l][c] += positional[c];
      }
      along = sum_of_four(along);
      if (valid && lane == 0) {
        float& target = floats(at.d_scale)[own];
        target = (kSumsAlong ? target + along : along) * length;
      }
      if (!p_.d_q.present()) continue;
      through_normalisation(row(at.query, i), inverse, lane, gradient);
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        if (valid && lane + 4 * l < kChunks) d_q.write(token(y, x), lane + 4 * l, gradient[l]);
      }
    }
  }

  __device__ void key_gradients() {
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    if (window() == 0 || !(p_.d_k.present() || p_.d_v.present())) return;
    const AttentionTokenShared& at = plan_.shared;
    const float scale = this->scale();
    const int lane = thread() % 4;
    const TokenRows<T> d_k(p_.d_k, batch(), head());
    const TokenRows<T> d_v(p_.d_v, batch(), head());
#pragma unroll 1
    for (int item = thread() / 4; item < (owned.cells() + 7) / 8 * 8;
         item += kAttentionTokenThreads / 4) {
      const bool valid = item < owned.cells();
      const int own = valid ? item : 0;
      const int y = owned.row(own);
      const int x = owned.column(own);
      const int key = keys.index(y, x);
      float d_key[kLaneChunks][8];
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        const int chunk = lane + 4 * l;
        if (chunk >= kChunks) continue;
        float d_value[8] = {}, embedded = 0.0f;
#pragma unroll
        for (int c = 0; c < 8; ++c) d_key[l][c] = 0.0f;
        // The queries that see this key lie in the flipped window.
        const int behind = window() - 1 - window() / 2;
        for_cells(y - behind, x - behind, [&](int query_y, int query_x, int flipped) {
          const int j = cells() - 1 - flipped;
          const int i = queries.index(query_y, query_x);
          const float d_logit =
              floats(at.probability)[i * cells() + j] * scale * floats(at.length_scale)[i];
          const float d_unit = d_logit * floats(at.query_inverse)[i];
          const float weight = floats(at.weight)[i * cells() + j];
          float q[8], d_out[8];
          load_vec8(row(at.query, i) + chunk * 8, q);
          load_vec8(row(at.d_out, i) + chunk * 8, d_out);
          embedded += d_logit;
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            d_key[l][c] += d_unit * q[c];
            d_value[c] += weight * d_out[c];
          }
        });
#pragma unroll
        for (int c = 0; c < 8; ++c) d_key[l][c] += embedded * floats(at.embedding)[chunk * 8 + c];
        if (valid && p_.d_v.present()) d_v.write(token(y, x), chunk, d_value);
      }
      if (!p_.d_k.present()) continue;
      through_normalisation(row(at.key, key), floats(at.key_inverse)[key], lane, d_key);
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        if (valid && lane + 4 * l < kChunks) d_k.write(token(y, x), lane + 4 * l, d_key[l]);
      }
    }
  }
};

}  // namespace transnext::device
