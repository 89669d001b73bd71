// aggregated_attention backward, the tokens' side: a window of 3 x 3 on tensor cores, for Half and
// BFloat16. Where gradients multiply rows they are rounded to TF32, which has float's range, and the
// rows are exact.
#pragma once

#include "cuda/kernels/attention/backward/local_window.cuh"
#include "cuda/kernels/attention/backward/window_patch.cuh"
#include "cuda/kernels/attention/row_fragments.cuh"

namespace transnext::device {

template <class T, int kDim>
class TokenWindowGemm : public TokenWindow<T, kDim>, protected WindowPatch {
 protected:
  using Tile = TokenTile<T, kDim>;
  using TokenWindow<T, kDim>::TokenWindow;
  using Tile::kChunks, Tile::smaller, Tile::floats, Tile::row, Tile::token, Tile::p_, Tile::plan_,
      Tile::head, Tile::batch, Tile::scale, Tile::owned, Tile::queries, Tile::halo_keys,
      Tile::inside;

  // a_j, D_j, w_j of every query, and the window's part of delta.
  __device__ void patch_weights() {
    const Rectangle queries = this->queries();
    const AttentionTokenShared& at = plan_.shared;
    for_patches(queries, [&](int top, int left) {
      const int index[2] = {nearest(queries, top, left + x()),
                            nearest(queries, top + 1, left + x())};
      const LeftRows<T, kDim> query(row(at.query, index[0]), row(at.query, index[1]), lane());
      float logit[2][kWindow], d_weight[2][kWindow], positional[2][kWindow];
      {
        const LeftRows<T, kDim> d_out(row(at.d_out, index[0]), row(at.d_out, index[1]), lane());
        multiply_reach(query, d_out, top, left, logit, d_weight);
      }
      multiply_tokens(query, positional);
      finish_patch(index, top, left, logit, d_weight, positional);
    });
  }

  __device__ void patch_query_gradients() {
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    const AttentionTokenShared& at = plan_.shared;
    for_patches(owned, [&](int top, int left) {
      int index[2];
      float d_logit[2][kWindow], d_weight[2][kWindow];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = nearest(queries, top + h, left + x());
        index[h] = i;
        const int window_row = y() - h;
        const bool here = window_row >= 0 && window_row < kWindow;
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          const int key = nearest(keys, top - 1 + y(), left - 1 + x() + j);
          d_logit[h][j] = here ? floats(at.probability)[i * kCells + window_row * kWindow + j] *
                                     floats(at.key_inverse)[key]
                               : 0.0f;
          d_weight[h][j] =
              y() < kWindow ? floats(at.d_weight)[i * kCells + y() * kWindow + j] : 0.0f;
        }
      }
      float local[kChunks][4] = {}, positional[kChunks][4] = {};
#pragma unroll
      for (int n = 0; n < kReachTiles; ++n) {
        unsigned right[kChunks];
        load_reach(row(at.key, reach_index(keys, top, left, n)), right);
        multiply_wide_weights<T, kDim>(tile_weights(d_logit, n).values, right, local);
      }
      add_tokens(d_weight, positional);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool valid = within(owned, top + h, left + x());
        finish_query(index[h], valid ? owned.index(top + h, left + x()) : 0, valid,
                     token(top + h, left + x()), h, local, positional);
      }
    });
  }

  __device__ void patch_key_gradients() {
    if (!(p_.d_k.present() || p_.d_v.present())) return;
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
    const AttentionTokenShared& at = plan_.shared;
    const TokenRows<T> d_k(p_.d_k, batch(), head());
    const TokenRows<T> d_v(p_.d_v, batch(), head());
    for_patches(owned, [&](int top, int left) {
      // For each of the lane's queries in the reach, the cell in which it sees one of the lane's
      // keys.
      float d_logit[2][kWindow], weight[2][kWindow], embedded[2] = {};
#pragma unroll
      for (int j = 0; j < kWindow; ++j) {
        const int query_y = top - 1 + y();
        const int query_x = left - 1 + x() + j;
        const int i = nearest(queries, query_y, query_x);
        const float scaling = scale() * floats(at.length_scale)[i];
        const float inverse = floats(at.query_inverse)[i];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int window_row = kWindow - 1 - y() + h;
          const bool seen = window_row >= 0 && window_row < kWindow && inside(query_y, query_x) &&
                            within(owned, top + h, left + x());
          const int cell = i * kCells + window_row * kWindow + kWindow - 1 - j;
          const float gradient = seen ? floats(at.probability)[cell] * scaling : 0.0f;
          embedded[h] += gradient;
          d_logit[h][j] = gradient * inverse;
          weight[h][j] = seen ? floats(at.weight)[cell] : 0.0f;
        }
      }
      float d_key[kChunks][4] = {}, d_value[kChunks][4] = {};
#pragma unroll
      for (int n = 0; n < kReachTiles; ++n) {
        const int at_reach = reach_index(queries, top, left, n);
        unsigned right[kChunks];
        load_reach(row(at.query, at_reach), right);
        multiply_wide_weights<T, kDim>(tile_weights(d_logit, n).values, right, d_key);
        load_reach(row(at.d_out, at_reach), right);
        multiply_wide_weights<T, kDim>(tile_weights(weight, n).values, right, d_value);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float from_embedding = sum_of_four(embedded[h]);
        const bool valid = within(owned, top + h, left + x());
        const int target = token(top + h, left + x());
        float gradient[kChunks][2];
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          const int c = 8 * i + lane_column(lane());
          if (valid && p_.d_v.present())
            d_v.write_two(target, c, d_value[i][2 * h], d_value[i][2 * h + 1]);
#pragma unroll
          for (int e = 0; e < 2; ++e)
            gradient[i][e] = d_key[i][2 * h + e] + from_embedding * floats(at.embedding)[c + e];
        }
        if (!p_.d_k.present()) continue;
        const int key = nearest(halo_keys(), top + h, left + x());
        normalise_backwards(row(at.key, key), floats(at.key_inverse)[key], gradient);
        if (valid) write(d_k, target, gradient);
      }
    });
  }

 private:
  // Loads eight rows as right operands, transposed or not. A matrix beyond the channels is loaded
  // but not used.
  static __device__ void load_reach(const T* own_row, unsigned (&right)[kChunks],
                                    bool transposed = true) {
    unsigned four[4];
    own_row += smaller(lane() / 8, kChunks - 1) * 8;
    if (transposed)
      ldmatrix_x4_trans(four, own_row);
    else
      ldmatrix_x4(four, own_row);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) right[i] = four[i];
  }

  // Multiplies the patch's queries and output gradients by the keys and values of its reach, and
  // keeps the lane's three columns, which lie in MMAs x / 2 and x / 2 + 1.
  __device__ void multiply_reach(const LeftRows<T, kDim>& query, const LeftRows<T, kDim>& d_out,
                                 int top, int left, float (&logit)[2][kWindow],
                                 float (&d_weight)[2][kWindow]) const {
    const Rectangle keys = halo_keys();
    float near[2][4], far[2][4];
#pragma unroll
    for (int n = 0; n < kReachTiles; ++n) {
      const int at_reach = reach_index(keys, top, left, n);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        unsigned right[kChunks];
        load_reach(row(m == 0 ? plan_.shared.key : plan_.shared.value, at_reach), right, false);
        float product[4] = {};
        multiply_rows(m == 0 ? query : d_out, right, product);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          near[m][e] = n == 0 || n == x() / 2 ? product[e] : near[m][e];
          far[m][e] = n == 0 || n == x() / 2 + 1 ? product[e] : far[m][e];
        }
      }
    }
    const bool odd = x() % 2 != 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        float (&to)[kWindow] = m == 0 ? logit[h] : d_weight[h];
        to[0] = odd ? near[m][2 * h + 1] : near[m][2 * h];
        to[1] = odd ? far[m][2 * h] : near[m][2 * h + 1];
        to[2] = odd ? far[m][2 * h + 1] : far[m][2 * h];
      }
    }
  }

  // The tokens are the columns of two MMAs along the channels: columns 2 r and 2 r + 1 of the first
  // hold window columns 0 and 1 of window row r, column 2 r of the second holds window column 2.
  __device__ void multiply_tokens(const LeftRows<T, kDim>& query,
                                  float (&positional)[2][kWindow]) const {
    const int window_row = lane() / 8;
    float product[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int window_column = 2 * n + lane() / 4 % 2;
      const bool there = window_row < kWindow && window_column < kWindow;
      const float* of_cell = floats(plan_.shared.tokens) +
                             (there ? window_row * kWindow + window_column : 0) * kDim +
                             lane_column(lane());
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const float2 top = floats_of<T>(query.top[i]);
        const float2 bottom = floats_of<T>(query.bottom[i]);
        const float2 two = *reinterpret_cast<const float2*>(of_cell + 8 * i);
        const unsigned a[4] = {float_to_bits(top.x), float_to_bits(bottom.x), float_to_bits(top.y),
                               float_to_bits(bottom.y)};
        const unsigned b[2] = {tensor_float_bits(there ? two.x : 0.0f),
                               tensor_float_bits(there ? two.y : 0.0f)};
        mma_m16n8k8(product[n], a, b, TensorFloat32{});
      }
    }
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      positional[0][j] = product[j / 2][j % 2];
      // The previous lane holds window row y - 1 of half 1.
      positional[1][j] = __shfl_sync(0xffffffffu, product[j / 2][2 + j % 2], (lane() + 31) % 32);
    }
  }

  // sum += weights tokens, where the lane holds the weights of window row y.
  __device__ void add_tokens(const float (&weights)[2][kWindow], float (&sum)[kChunks][4]) const {
    const bool there = y() < kWindow;
    const float* of_row =
        floats(plan_.shared.tokens) + (there ? y() * kWindow : 0) * kDim + lane_row(lane());
    const unsigned first[4] = {tensor_float_bits(weights[0][0]), tensor_float_bits(weights[1][0]),
                               tensor_float_bits(weights[0][1]), tensor_float_bits(weights[1][1])};
    const unsigned second[4] = {tensor_float_bits(weights[0][2]), tensor_float_bits(weights[1][2]),
                                0, 0};
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      unsigned token[kWindow];
#pragma unroll
      for (int j = 0; j < kWindow; ++j)
        token[j] = tensor_float_bits(there ? of_row[j * kDim + 8 * i] : 0.0f);
      mma_m16n8k8(sum[i], first, {token[0], token[1]}, TensorFloat32{});
      mma_m16n8k8(sum[i], second, {token[2], 0}, TensorFloat32{});
    }
  }

  __device__ void finish_patch(const int (&index)[2], int top, int left,
                               const float (&logit)[2][kWindow],
                               const float (&d_weight)[2][kWindow],
                               const float (&positional)[2][kWindow]) const {
    const AttentionTokenShared& at = plan_.shared;
    const Rectangle queries = this->queries();
    const Rectangle keys = halo_keys();
    const int key_y = top - 1 + y();
    float key_inverse[kWindow], key_embedding[kWindow];
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const int key = nearest(keys, key_y, left - 1 + x() + j);
      key_inverse[j] = floats(at.key_inverse)[key];
      key_embedding[j] = floats(at.key_embedding)[key];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = index[h];
      const int window_row = y() - h;
      const bool present = within(queries, top + h, left + x());
      const bool here = present && window_row >= 0 && window_row < kWindow;
      const float inverse = floats(at.query_inverse)[i];
      const float scaling = scale() * floats(at.length_scale)[i];
      const float log_sum_exp = floats(at.log_sum_exp)[i];
      float sum = 0.0f, total = 0.0f;
#pragma unroll
      for (int j = 0; j < kWindow; ++j) {
        const int cell = here ? window_row * kWindow + j : 0;
        const bool seen = here && inside(key_y, left - 1 + x() + j);
        const float value = scaling * (logit[h][j] * inverse * key_inverse[j] + key_embedding[j]) +
                            floats(at.local_bias)[cell];
        const float probability = seen ? exp2_fast(value * kLog2E - log_sum_exp) : 0.0f;
        const float gradient = seen ? d_weight[h][j] : 0.0f;
        sum += probability * gradient;
        total += probability;
        if (!here) continue;
        floats(at.probability)[i * kCells + cell] = probability;
        floats(at.d_weight)[i * kCells + cell] = gradient;
        floats(at.weight)[i * kCells + cell] =
            seen ? probability + positional[h][j] * inverse + floats(at.token_bias)[cell] : 0.0f;
      }
      sum = sum_of_four(sum);
      total = sum_of_four(total);
      if (present && y() == 0) {
        floats(at.delta)[i] = sum;
        floats(at.total)[i] = total;
      }
    }
  }

  // Stores d_q of one of the lane's two queries, and its terms of the parameter sums.
  __device__ void finish_query(int index, int own, bool valid, int target, int h,
                               const float (&local)[kChunks][4],
                               const float (&positional)[kChunks][4]) const {
    const AttentionTokenShared& at = plan_.shared;
    const float inverse = floats(at.query_inverse)[index];
    const float length = floats(at.length_scale)[index];
    const float scaling = scale() * length;
    float gradient[kChunks][2], along = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int c = 8 * i + lane_column(lane());
      float2* shared_gradient = reinterpret_cast<float2*>(floats(at.gradient) + own * kDim + c);
      const float2 embedding = *reinterpret_cast<const float2*>(floats(at.embedding) + c);
      const float2 from_pooled = valid ? *shared_gradient : float2{0.0f, 0.0f};
      const float2 query = floats_of<T>(two_elements(row(at.query, index) + c));
      const float of_window[2] = {local[i][2 * h], local[i][2 * h + 1]};
      along += of_window[0] * (query.x * inverse + embedding.x) +
               of_window[1] * (query.y * inverse + embedding.y);
      const float2 both = {(of_window[0] + from_pooled.x) * scaling,
                           (of_window[1] + from_pooled.y) * scaling};
      if (valid) *shared_gradient = both;
      gradient[i][0] = both.x + positional[i][2 * h];
      gradient[i][1] = both.y + positional[i][2 * h + 1];
    }
    along = sum_of_four(along);
    if (valid && y() == 0) {
      float& of_scale = floats(at.d_scale)[own];
      of_scale = (of_scale + along) * length;
    }
    if (!p_.d_q.present()) return;
    normalise_backwards(row(at.query, index), inverse, gradient);
    if (valid) write(TokenRows<T>(p_.d_q, batch(), head()), target, gradient);
  }

  // Gradient of a vector through its normalisation, of the lane's channels.
  static __device__ void normalise_backwards(const T* vector, float inverse,
                                             float (&gradient)[kChunks][2]) {
    float2 unit[kChunks];
    float along = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      unit[i] = floats_of<T>(two_elements(vector + 8 * i + lane_column(lane())));
      along += unit[i].x * gradient[i][0] + unit[i].y * gradient[i][1];
    }
    along = sum_of_four(along) * inverse;
    if (inverse >= 1.0f / kNormEpsilon) along = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      gradient[i][0] = (gradient[i][0] - unit[i].x * inverse * along) * inverse;
      gradient[i][1] = (gradient[i][1] - unit[i].y * inverse * along) * inverse;
    }
  }

  static __device__ void write(const TokenRows<T>& rows, int target,
                               const float (&gradient)[kChunks][2]) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      rows.write_two(target, 8 * i + lane_column(lane()), gradient[i][0], gradient[i][1]);
  }
};

}  // namespace transnext::device
