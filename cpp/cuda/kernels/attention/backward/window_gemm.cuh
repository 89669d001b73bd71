// aggregated_attention backward, the tokens' side: a window of 3 x 3 on tensor cores, for Half and
// BFloat16. Logits multiply queries and keys as they are stored. The gradients multiply unit vectors
// rounded to T by weights rounded to T, which are divided before by what makes them numbers of T:
// logits' gradients by the length of an output gradient, the query's own or the block's largest, so
// that they have the values' magnitude, and window weights by a power of two that tokens may need.
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
  using Tile::kChunks, Tile::kStride, Tile::smaller, Tile::floats, Tile::row, Tile::rows,
      Tile::token, Tile::p_, Tile::plan_, Tile::head, Tile::batch, Tile::scale, Tile::owned,
      Tile::queries, Tile::halo_keys, Tile::inside, Tile::state, Tile::thread, Tile::lane;

  // Finds by what the weights of gradients are divided. Needs the norms of output gradients.
  __device__ void find_units() const {
    const AttentionTokenShared& at = plan_.shared;
    float largest = 0.0f;
#pragma unroll 1
    for (int i = thread(); i < queries().cells(); i += kAttentionTokenThreads)
      largest = fmaxf(largest, floats(at.d_out_norm)[i]);
    largest = warp_max(largest);
    // Floats that are not negative have the order of their bits.
    if (lane() == 0)
      atomicMax(reinterpret_cast<int*>(&state().largest_d_out),
                static_cast<int>(float_to_bits(largest)));
    if (thread() < 32) {
      float most = 0.0f;
      if (lane() < kCells)
        most = row_norm<kDim>(floats(at.tokens) + lane() * kDim) +
               fabsf(floats(at.token_bias)[lane()]);
      most = warp_max(most);
      constexpr float kLarge = 16384.0f;  // weights are at most 1 + most
      const unsigned exponent = float_to_bits(most) & 0x7f800000u;
      if (lane() == 0)
        state().weight_unit = most < kLarge ? 1.0f : bits_to_float(exponent) * (1.0f / kLarge);
    }
  }

  // a_j, D_j, w_j of every query, and the window's part of delta.
  __device__ void patch_weights() {
    const Rectangle queries = this->queries();
    const AttentionTokenShared& at = plan_.shared;
    for_patches(queries, [&](int top, int left) {
      const int own = own_index(queries, top, left);
      const LeftRows<T, kDim> query(row(at.query, own), lane());
      float logit[2][kWindow], d_weight[2][kWindow], positional[2][kWindow];
      {
        const LeftRows<T, kDim> d_out(row(at.d_out, own), lane());
        const Reach reach(halo_keys(), top, left);
        multiply_reach(query, rows(at.key), reach, logit);
        multiply_reach(d_out, rows(at.value), reach, d_weight);
      }
      multiply_tokens(query, positional);
      finish_patch(top, left, logit, d_weight, positional);
    });
  }

  // Replaces queries and keys by their unit vectors, once nothing multiplies them as they are.
  __device__ void make_units() const {
    const AttentionTokenShared& at = plan_.shared;
    make_units(rows(at.query), floats(at.query_inverse), queries().cells());
    make_units(rows(at.key), floats(at.key_inverse), halo_keys().cells());
  }

  __device__ void patch_query_gradients() {
    const Rectangle owned = this->owned();
    const Rectangle queries = this->queries();
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
        const float unit = inverse_or_zero(floats(at.d_out_norm)[i]);
#pragma unroll
        for (int j = 0; j < kWindow; ++j) {
          d_logit[h][j] =
              here ? floats(at.probability)[i * kCells + window_row * kWindow + j] * unit : 0.0f;
          d_weight[h][j] =
              y() < kWindow ? floats(at.d_weight)[i * kCells + y() * kWindow + j] : 0.0f;
        }
      }
      float local[kChunks][4] = {}, positional[kChunks][4] = {};
      const WindowWeights<T> weights(d_logit, x());
      const Reach reach(halo_keys(), top, left);
#pragma unroll
      for (int n = 0; n < kReachTiles; n += 2)
        add_reach(weights, n, row(at.key, reach.index_of_two(n)), local);
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
    const float largest_d_out = state().largest_d_out;
    const float scaling = scale() * inverse_or_zero(largest_d_out);
    const float weight_unit = state().weight_unit;
    const float of_weight = 1.0f / weight_unit;
    for_patches(owned, [&](int top, int left) {
      // For each of the lane's queries in the reach, the cell in which it sees one of the lane's
      // keys.
      float d_logit[2][kWindow], weight[2][kWindow], embedded[2] = {};
      const Row query_row(queries, top - 1 + y());
#pragma unroll
      for (int j = 0; j < kWindow; ++j) {
        const int query_x = left - 1 + x() + j;
        const int i = query_row.index(query_x);
        const bool there = query_row.contains(query_x);
        const float factor = scaling * floats(at.length_scale)[i];
        const int cell = i * kCells + (kWindow - 1 - y()) * kWindow + kWindow - 1 - j;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const bool seen = there && (h == 0 ? y() < kWindow : y() > 0);
          d_logit[h][j] = seen ? floats(at.probability)[cell + h * kWindow] * factor : 0.0f;
          weight[h][j] = seen ? floats(at.weight)[cell + h * kWindow] * of_weight : 0.0f;
          embedded[h] += d_logit[h][j];
        }
      }
      float d_key[kChunks][4] = {}, d_value[kChunks][4] = {};
      {
        const WindowWeights<T> of_keys(d_logit, x());
        const WindowWeights<T> of_values(weight, x());
        const Reach reach(queries, top, left);
#pragma unroll
        for (int n = 0; n < kReachTiles; n += 2) {
          const int i = reach.index_of_two(n);
          add_reach(of_keys, n, row(at.query, i), d_key);
          add_reach(of_values, n, row(at.d_out, i), d_value);
        }
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
            d_v.write_two(target, c, d_value[i][2 * h] * weight_unit,
                          d_value[i][2 * h + 1] * weight_unit);
#pragma unroll
          for (int e = 0; e < 2; ++e)
            gradient[i][e] = d_key[i][2 * h + e] + from_embedding * floats(at.embedding)[c + e];
        }
        if (!p_.d_k.present()) continue;
        const int key = nearest(halo_keys(), top + h, left + x());
        normalise_backwards(row(at.key, key), floats(at.key_inverse)[key], largest_d_out, gradient);
        if (valid) write(d_k, target, gradient);
      }
    });
  }

 private:
  static __device__ float inverse_or_zero(float x) { return x > 0.0f ? 1.0f / x : 0.0f; }

  static __device__ void make_units(T* rows, const float* inverse, int count) {
    for_vectors<kDim, T>(count, [=](int row, int channel) {
      T* at = rows + row * kStride + channel;
      const float factor = inverse[row];
      float unit[8];
      load_vec8(at, unit);
#pragma unroll
      for (int c = 0; c < 8; ++c) unit[c] *= factor;
      store_vec8(unit, at);
    });
  }

  // sum += weights rows, of MMAs n and n + 1 of a reach.
  static __device__ void add_reach(const WindowWeights<T>& weights, int n, const T* own_row,
                                   float (&sum)[kChunks][4]) {
    const unsigned operand[4] = {weights.of(n, 0), weights.of(n, 1), weights.of(n + 1, 0),
                                 weights.of(n + 1, 1)};
    multiply_operand(operand, own_row, lane(), sum);
  }

  // Multiplies the patch's rows by those of its reach, and keeps the lane's three columns.
  static __device__ void multiply_reach(const LeftRows<T, kDim>& left, const T* rows,
                                        const Reach& reach, float (&chosen)[2][kWindow]) {
    float products[kReachTiles][4] = {};
#pragma unroll
    for (int n = 0; n < kReachTiles; ++n) {
      // A matrix beyond the channels is loaded but not used.
      unsigned right[4];
      ldmatrix_x4(right, rows + reach.index(n) * kStride + smaller(group(), kChunks - 1) * 8);
      unsigned used[kChunks];
#pragma unroll
      for (int i = 0; i < kChunks; ++i) used[i] = right[i];
      multiply_rows(left, used, products[n]);
    }
    WindowColumns columns;
    columns.choose(0, x(), products[0], products[2]);
    columns.choose(2, x(), products[1], products[3]);
    columns.choose(4, x(), products[2], products[4]);
    columns.finish(x(), chosen);
  }

  // The tokens are the columns of two MMAs along the channels: columns 2 r and 2 r + 1 of the first
  // hold window columns 0 and 1 of window row r, column 2 r of the second holds window column 2.
  __device__ void multiply_tokens(const LeftRows<T, kDim>& query,
                                  float (&positional)[2][kWindow]) const {
    const int window_row = group();
    float product[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int window_column = 2 * n + x() % 2;
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

  __device__ void finish_patch(int top, int left, const float (&logit)[2][kWindow],
                               const float (&d_weight)[2][kWindow],
                               const float (&positional)[2][kWindow]) const {
    const AttentionTokenShared& at = plan_.shared;
    const Rectangle queries = this->queries();
    float key_inverse[kWindow], key_embedding[kWindow];
    bool there[kWindow];  // inside the image: the halo ends where the image does
    const Row key_row(halo_keys(), top - 1 + y());
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const int key = key_row.index(left - 1 + x() + j);
      there[j] = key_row.contains(left - 1 + x() + j);
      key_inverse[j] = floats(at.key_inverse)[key];
      key_embedding[j] = floats(at.key_embedding)[key];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = nearest(queries, top + h, left + x());
      const bool present = within(queries, top + h, left + x());
      const bool here = present && (h == 0 ? y() < kWindow : y() > 0);
      const float inverse = floats(at.query_inverse)[i];
      const float scaling = scale() * floats(at.length_scale)[i];
      const float offset = floats(at.offset)[i];
      const int cell = here ? (y() - h) * kWindow : 0;
      float sum = 0.0f, total = 0.0f;
#pragma unroll
      for (int j = 0; j < kWindow; ++j) {
        const bool seen = here && there[j];
        const float value = scaling * (logit[h][j] * inverse * key_inverse[j] + key_embedding[j]) +
                            floats(at.local_bias)[cell + j];
        const float probability = seen ? exp2_fast(value * kLog2E + offset) : 0.0f;
        const float gradient = seen ? d_weight[h][j] : 0.0f;
        sum += probability * gradient;
        total += probability;
        if (!here) continue;
        floats(at.probability)[i * kCells + cell + j] = probability;
        floats(at.d_weight)[i * kCells + cell + j] = gradient;
        floats(at.weight)[i * kCells + cell + j] =
            seen ? probability + positional[h][j] * inverse + floats(at.token_bias)[cell + j]
                 : 0.0f;
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
    const float d_out_norm = floats(at.d_out_norm)[index];
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
      const float of_window[2] = {local[i][2 * h] * d_out_norm, local[i][2 * h + 1] * d_out_norm};
      along += of_window[0] * (query.x + embedding.x) + of_window[1] * (query.y + embedding.y);
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
    normalise_backwards(row(at.query, index), floats(at.query_inverse)[index], 1.0f, gradient);
    if (valid) write(TokenRows<T>(p_.d_q, batch(), head()), target, gradient);
  }

  // Gradient of a vector through its normalisation, of the lane's channels, times a factor.
  static __device__ void normalise_backwards(const T* unit_vector, float inverse, float factor,
                                             float (&gradient)[kChunks][2]) {
    float2 unit[kChunks];
    float along = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      unit[i] = floats_of<T>(two_elements(unit_vector + 8 * i + lane_column(lane())));
      along += unit[i].x * gradient[i][0] + unit[i].y * gradient[i][1];
    }
    along = sum_of_four(along);
    if (inverse >= 1.0f / kNormEpsilon) along = 0.0f;
    factor *= inverse;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      gradient[i][0] = (gradient[i][0] - unit[i].x * along) * factor;
      gradient[i][1] = (gradient[i][1] - unit[i].y * along) * factor;
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
