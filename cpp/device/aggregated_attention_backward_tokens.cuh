// aggregated_attention backward, the share of the tokens: d_q, d_k, d_v, and a block's sums for the
// parameters' gradients. With the forward's formulas (transnext/aggregated_attention.h), D_j = d_out .
// v(n + offset_j), D_m = d_out . vp(m), t_j = qn . tokens_j + token_bias_j, and the probabilities a =
// exp(logit - log_sum_exp) computed again:
//
//   delta = sum_j a_j D_j + sum_m a_m D_m,   d_l = a (D - delta), the logits' gradients
//   d_qh  = sum_j d_l_j kn(n + offset_j) + sum_m d_l_m kpn(m)
//   d_qn  = d_qh scale s + sum_j D_j tokens_j, and d_q through the normalisation
//   d_kn(n') = sum_j d_l_j(n' - offset_j) qh(n' - offset_j), and d_k through the normalisation
//   d_v(n')  = sum_j w_j(n' - offset_j) d_out(n' - offset_j)
//
// delta is summed over the keys, not taken from d_out . out: `out` is rounded to its storage type, and
// where one key has all the weight that error is all there would be of D - delta.
//
// A block owns a rectangle of tokens of one (image, head), as queries and as keys. Queries within a
// window's reach of the rectangle look at its keys, so the block finds their a_j, D_j and delta too,
// and no gradient has two writers. Rows lie in shared memory as they are stored; norms, scales and
// biases enter the logits in float, so that the products of tensor cores are of exact operands.
// d_l_m / |d_out|, a number of the values' size, is all that is rounded to 16 bit.
//
// Per token and head: bytes (6 d + read halos) sizeof(T) + 8; flops about 2 d (7 L + 3 P), and 2 d 2 P
// (queries of the halo / owned - 1).
#pragma once

#include "device/aggregated_attention_backward_shape.h"
#include "device/math.cuh"
#include "device/pooled_bias.cuh"
#include "device/rectangle.cuh"
#include "device/token_rows.cuh"

namespace transnext {

namespace device {

template <class T, int kDim>
class BackwardTokens {
 public:
  using Launch = AggregatedAttentionBackwardLaunch;

  __device__ BackwardTokens(const Launch& launch, unsigned block)
      : p_(launch.params),
        in_(launch.params.in),
        plan_(launch.plan),
        workspace_(launch.workspace),
        memory_(dynamic_shared<unsigned char>()),
        heads_(static_cast<unsigned>(in_.q.shape[2])),
        head_(block % heads_),
        batch_(block / heads_ / tiles()),
        scale_(static_cast<const float*>(in_.scale.data)[head_ * in_.scale.stride[0]]),
        bias_(in_, head_) {
    const int tile = static_cast<int>(block / heads_ % tiles());
    own_.top = tile / plan_.tiles_x * plan_.tile_height;
    own_.left = tile % plan_.tiles_x * plan_.tile_width;
    own_.height = smaller(plan_.tile_height, height() - own_.top);
    own_.width = smaller(plan_.tile_width, width() - own_.left);
    const int before = window() / 2;
    const int after = window() > 0 ? window() - 1 - before : 0;
    // A key is seen by the queries that lie on the other side of the window's cells.
    queries_ = own_.grown(after, before, height(), width());
    keys_ = queries_.grown(before, after, height(), width());
  }

  __device__ void run() {
    load();
    const AttentionTokenShared& at = plan_.shared;
    bias_.load(PooledBias(in_.pool_bias, head_), queries_,
               {ints(at.bias_rows), ints(at.bias_columns), floats(at.bias_weights),
                ints(at.bias_bounds), floats(at.bias_patch), plan_.bias_patch});
    __syncthreads();
    find_norms();
    __syncthreads();
    local_weights();
    __syncthreads();
    sum_local_delta();
    const bool kept = pooled() <= kAttentionPoolTile;
#pragma unroll 1
    for (int first = 0; first < pooled(); first += kAttentionPoolTile) {
      load_pooled(first);
      add_pooled_delta(first);
    }
    __syncthreads();
    finish_delta();
    __syncthreads();
    local_logit_gradients();
    pooled_query_gradients(kept);
    query_gradients();
    key_gradients();
    __syncthreads();
    parameter_sums();
  }

 private:
  static constexpr int kStride = row_stride<T>(kDim);
  static constexpr int kChunks = kDim / 8;
  static constexpr int kLaneChunks = (kChunks + 3) / 4;  // of the four lanes that share a token
  static constexpr int kWarps = kAttentionTokenThreads / 32;

  // Not members: the kernel's parameters and thread numbers cost no registers.
  __device__ int channels() const { return static_cast<int>(in_.q.shape[3]); }
  __device__ int height() const { return static_cast<int>(in_.grid.height); }
  __device__ int width() const { return static_cast<int>(in_.grid.width); }
  __device__ int window() const { return static_cast<int>(in_.window_size); }
  __device__ int cells() const { return window() * window(); }
  __device__ int pooled() const { return static_cast<int>(in_.k_pool.shape[1]); }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int smaller(int a, int b) { return a < b ? a : b; }
  __device__ unsigned tiles() const {
    return static_cast<unsigned>(plan_.tiles_y) * static_cast<unsigned>(plan_.tiles_x);
  }
  __device__ float* floats(int offset) const { return reinterpret_cast<float*>(memory_ + offset); }
  __device__ int* ints(int offset) const { return reinterpret_cast<int*>(memory_ + offset); }
  __device__ T* rows(int offset) const { return reinterpret_cast<T*>(memory_ + offset); }
  __device__ const T* row(int offset, int index) const { return rows(offset) + index * kStride; }
  __device__ int token(int y, int x) const { return y * width() + x; }
  __device__ bool inside(int y, int x) const {
    return y >= 0 && y < height() && x >= 0 && x < width();
  }

  __device__ void load() {
    const auto query_token = [this](int i) -> index_t {
      return token(queries_.row(i), queries_.column(i));
    };
    const auto key_token = [this](int i) -> index_t {
      return token(keys_.row(i), keys_.column(i));
    };
    const AttentionTokenShared& at = plan_.shared;
    stage_rows<kDim>(TokenRows<T>(in_.q, batch_, head_), queries_.cells(), query_token,
                     rows(at.query));
    stage_rows<kDim>(TokenRows<T>(p_.d_out, batch_, head_), queries_.cells(), query_token,
                     rows(at.d_out));
    if (window() > 0) {
      stage_rows<kDim>(TokenRows<T>(in_.k, batch_, head_), keys_.cells(), key_token, rows(at.key));
      stage_rows<kDim>(TokenRows<T>(in_.v, batch_, head_), keys_.cells(), key_token,
                       rows(at.value));
    }
    const float* log_sum_exp = static_cast<const float*>(p_.log_sum_exp.data) +
                               batch_ * p_.log_sum_exp.stride[0] + head_ * p_.log_sum_exp.stride[2];
#pragma unroll 1
    for (int i = thread(); i < queries_.cells(); i += kAttentionTokenThreads) {
      const int y = queries_.row(i);
      const int x = queries_.column(i);
      floats(at.log_sum_exp)[i] = log_sum_exp[token(y, x) * p_.log_sum_exp.stride[1]];
      floats(at.length_scale)[i] = length_scale(y, x, window(), in_.grid, pooled());
    }
#pragma unroll 1
    for (int c = thread(); c < kDim; c += kAttentionTokenThreads)
      floats(at.embedding)[c] = parameter(in_.query_embedding, c, channels());
#pragma unroll 1
    for (int j = thread(); j < cells(); j += kAttentionTokenThreads) {
      floats(at.local_bias)[j] = parameter(in_.local_bias, j, cells());
      floats(at.token_bias)[j] = parameter(in_.token_bias, j, cells());
    }
#pragma unroll 1
    for (int i = thread(); i < cells() * kDim; i += kAttentionTokenThreads) {
      const int c = i / cells();
      const int j = i % cells();
      float value = 0.0f;
      if (in_.tokens.present() && c < channels())
        value = static_cast<const float*>(
            in_.tokens.data)[head_ * in_.tokens.stride[0] + c * in_.tokens.stride[1] +
                             j * in_.tokens.stride[2]];
      floats(at.tokens)[j * kDim + c] = value;
    }
  }

  __device__ float parameter(const View<2>& view, int i, int count) const {
    if (!view.present() || i >= count) return 0.0f;
    return static_cast<const float*>(view.data)[head_ * view.stride[0] + i * view.stride[1]];
  }

  __device__ void find_norms() {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int i = thread(); i < queries_.cells(); i += kAttentionTokenThreads) {
      floats(at.query_inverse)[i] = 1.0f / fmaxf(row_norm<kDim>(row(at.query, i)), kNormEpsilon);
      floats(at.d_out_norm)[i] = row_norm<kDim>(row(at.d_out, i));
    }
    if (window() > 0) find_key_norms(at.key, keys_.cells(), at.key_inverse, at.key_embedding);
  }

  // Inverse norms, and the query embedding's products with the normalised keys.
  __device__ void find_key_norms(int keys, int count, int inverse, int embedding) {
#pragma unroll 1
    for (int i = thread(); i < count; i += kAttentionTokenThreads) {
      const float norm = 1.0f / fmaxf(row_norm<kDim>(row(keys, i)), kNormEpsilon);
      floats(inverse)[i] = norm;
      floats(embedding)[i] = row_dot<kDim>(row(keys, i), floats(plan_.shared.embedding)) * norm;
    }
  }

  // a_j, D_j, w_j of every query: a thread makes three cells of one.
  __device__ void local_weights() {
    constexpr int kRun = 3;
    const AttentionTokenShared& at = plan_.shared;
    const int runs = (cells() + kRun - 1) / kRun;
#pragma unroll 1
    for (int item = thread(); item < queries_.cells() * runs; item += kAttentionTokenThreads) {
      const int i = item / runs;
      const int first = item % runs * kRun;
      const int y = queries_.row(i);
      const int x = queries_.column(i);
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
        key[r] = seen ? keys_.index(key_y, key_x) : -1;
        if (++right == window()) {
          right = 0;
          ++down;
        }
      }
#pragma unroll 1
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        float q[8], d_out[8];
        read_eight(row(at.query, i) + chunk * 8, q);
        read_eight(row(at.d_out, i) + chunk * 8, d_out);
#pragma unroll
        for (int r = 0; r < kRun; ++r) {
          const int at_key = key[r] < 0 ? 0 : key[r];
          logit[r] += dot_eight(row(at.key, at_key) + chunk * 8, q);
          d_weight[r] += dot_eight(row(at.value, at_key) + chunk * 8, d_out);
          positional[r] += dot_eight(floats(at.tokens) + cell[r] * kDim + chunk * 8, q);
        }
      }
      const float inverse = floats(at.query_inverse)[i];
      const float scaling = scale_ * floats(at.length_scale)[i];
#pragma unroll
      for (int r = 0; r < kRun; ++r) {
        if (first + r >= cells()) break;
        float probability = 0.0f, weight = 0.0f;
        if (key[r] >= 0) {
          const float value = scaling * (logit[r] * inverse * floats(at.key_inverse)[key[r]] +
                                         floats(at.key_embedding)[key[r]]) +
                              floats(at.local_bias)[cell[r]];
          probability = exp_fast(value - floats(at.log_sum_exp)[i]);
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
    for (int i = thread(); i < queries_.cells(); i += kAttentionTokenThreads) {
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

  // Pooled keys from `first` on into shared memory, once the block is done with the ones before.
  __device__ void load_pooled(int first) {
    const AttentionTokenShared& at = plan_.shared;
    const int count = smaller(kAttentionPoolTile, pooled() - first);
    const auto token_of = [=](int i) { return index_t{i < count ? first + i : -1}; };
    __syncthreads();
    stage_rows<kDim>(TokenRows<T>(in_.k_pool, batch_, head_), kAttentionPoolTile, token_of,
                     rows(at.pool_key));
    stage_rows<kDim>(TokenRows<T>(in_.v_pool, batch_, head_), kAttentionPoolTile, token_of,
                     rows(at.pool_value));
    const int columns = static_cast<int>(in_.pool_grid.width);
#pragma unroll 1
    for (int i = thread(); i < kAttentionPoolTile; i += kAttentionTokenThreads) {
      ints(at.pool_row)[i] = (first + i) / columns;
      ints(at.pool_column)[i] = (first + i) % columns;
    }
    __syncthreads();
    find_key_norms(at.pool_key, kAttentionPoolTile, at.pool_inverse, at.pool_embedding);
    __syncthreads();
    if constexpr (OnTensorCores<T>::value) {  // float has the range for keys as they are
#pragma unroll 1
      for (int item = thread(); item < kAttentionPoolTile * kChunks;
           item += kAttentionTokenThreads) {
        const int i = item / kChunks;
        const int chunk = item % kChunks;
        float x[8];
        read_eight(row(at.pool_key, i) + chunk * 8, x);
#pragma unroll
        for (int c = 0; c < 8; ++c) x[c] *= floats(at.pool_inverse)[i];
        write_eight(x, rows(at.pool_unit) + i * kStride + chunk * 8);
      }
      __syncthreads();
    }
  }

  // One of a lane's two queries of a tile of 16.
  struct Query {
    int index;  // among the block's queries
    int y, x;   // in their rectangle
    int token;
    float inverse, scaling, log_sum_exp;
  };
  __device__ Query query_at(int index) const {
    const AttentionTokenShared& at = plan_.shared;
    const int y = index / queries_.width;
    const int x = index - y * queries_.width;
    return {index,
            y,
            x,
            token(queries_.top + y, queries_.left + x),
            floats(at.query_inverse)[index],
            scale_ * floats(at.length_scale)[index],
            floats(at.log_sum_exp)[index]};
  }

  // a_m, D_m and (qn + embedding) . kpn(m) of 16 queries and the 16 pooled keys from `sub` of the tile
  // on.
  __device__ void pooled_weights(const Query (&query)[2], int first, int sub, int lane,
                                 float (&probability)[2][4], float (&d_weight)[2][4],
                                 float (&cosine)[2][4]) const {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) cosine[t][e] = d_weight[t][e] = 0.0f;
    }
    multiply_rows<kDim>(row(at.query, query[0].index), row(at.query, query[1].index),
                        row(at.pool_key, sub), lane, cosine);
    multiply_rows<kDim>(row(at.d_out, query[0].index), row(at.d_out, query[1].index),
                        row(at.pool_value, sub), lane, d_weight);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Query& q = query[e / 2];
        const int key = sub + t * 8 + lane_column(lane) + e % 2;
        cosine[t][e] = cosine[t][e] * q.inverse * floats(at.pool_inverse)[key] +
                       floats(at.pool_embedding)[key];
        float value = 0.0f;
        if (first + key < pooled()) {
          const float logit =
              q.scaling * cosine[t][e] + bias_.at(q.y, q.x, q.token, ints(at.pool_row)[key],
                                                  ints(at.pool_column)[key], first + key);
          value = exp_fast(logit - q.log_sum_exp);
        }
        probability[t][e] = value;
      }
    }
  }

  __device__ void add_pooled_delta(int first) {
    const int lane = thread() % 32;
    const int count = queries_.cells();
    const int keys = smaller(kAttentionPoolTile, pooled() - first);
#pragma unroll 1
    for (int tile = thread() / 32 * 16; tile < count; tile += kWarps * 16) {
      const Query query[2] = {query_at(smaller(tile + lane_row(lane), count - 1)),
                              query_at(smaller(tile + 8 + lane_row(lane), count - 1))};
      float sum[2] = {}, total[2] = {};
#pragma unroll 1
      for (int sub = 0; sub < keys; sub += 16) {
        float probability[2][4], d_weight[2][4], cosine[2][4];
        pooled_weights(query, first, sub, lane, probability, d_weight, cosine);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            sum[e / 2] += probability[t][e] * d_weight[t][e];
            total[e / 2] += probability[t][e];
          }
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h] = sum_of_four(sum[h]);
        total[h] = sum_of_four(total[h]);
        if (lane % 4 == 0 && tile + 8 * h + lane_row(lane) < count) {
          floats(plan_.shared.delta)[query[h].index] += sum[h];
          floats(plan_.shared.total)[query[h].index] += total[h];
        }
      }
    }
  }

  // The probabilities add to 1 but for the rounding of large logits, and then D - delta of a key that
  // has all the weight is nothing but for the same.
  __device__ void finish_delta() {
#pragma unroll 1
    for (int i = thread(); i < queries_.cells(); i += kAttentionTokenThreads) {
      const float total = floats(plan_.shared.total)[i];
      if (total > 0.0f) floats(plan_.shared.delta)[i] /= total;
    }
  }

  __device__ int owned_query(int own) const {
    return queries_.index(own_.row(own), own_.column(own));
  }

  // d_l_j in place of a_j; the owned queries' delta for the pooled side.
  __device__ void local_logit_gradients() {
    const AttentionTokenShared& at = plan_.shared;
#pragma unroll 1
    for (int item = thread(); item < queries_.cells() * cells(); item += kAttentionTokenThreads)
      floats(at.probability)[item] *= floats(at.d_weight)[item] - floats(at.delta)[item / cells()];
    const index_t tokens = in_.grid.size();
    float* delta = workspace_ + plan_.delta + (index_t{batch_} * heads_ + head_) * tokens;
#pragma unroll 1
    for (int own = thread(); own < own_.cells(); own += kAttentionTokenThreads)
      delta[token(own_.row(own), own_.column(own))] = floats(at.delta)[owned_query(own)];
  }

  // sum_m d_l_m kpn(m) of the owned queries, and its product with qn + embedding: `parts` warps share
  // 16 queries, and each takes every parts-th 16 pooled keys.
  __device__ void pooled_query_gradients(bool kept) {
    const AttentionTokenShared& at = plan_.shared;
    const int lane = thread() % 32;
    const int warp = thread() / 32;
    const int count = own_.cells();
    const int tiles = (count + 15) / 16;
    const int parts = smaller(kWarps / tiles, kAttentionPoolTile / 16);
    const int tile = warp % tiles * 16;
    const int part = warp / tiles;
    const int top = smaller(tile + lane_row(lane), count - 1);
    const int bottom = smaller(tile + 8 + lane_row(lane), count - 1);
    const Query query[2] = {query_at(owned_query(top)), query_at(owned_query(bottom))};
    float delta[2], inverse[2], along[2] = {}, sum[kChunks][4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      delta[h] = floats(at.delta)[query[h].index];
      const float norm = floats(at.d_out_norm)[query[h].index];
      inverse[h] = norm > 0.0f ? 1.0f / norm : 0.0f;
    }
#pragma unroll 1
    for (int first = 0; first < pooled(); first += kAttentionPoolTile) {
      if (!kept) load_pooled(first);
      const int keys = smaller(kAttentionPoolTile, pooled() - first);
#pragma unroll 1
      for (int sub = part * 16; part < parts && sub < keys; sub += parts * 16) {
        float probability[2][4], d_weight[2][4], cosine[2][4];
        pooled_weights(query, first, sub, lane, probability, d_weight, cosine);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            probability[t][e] *= d_weight[t][e] - delta[e / 2];
            along[e / 2] += probability[t][e] * cosine[t][e];
            if constexpr (OnTensorCores<T>::value)
              probability[t][e] *= inverse[e / 2];
            else
              probability[t][e] *= floats(at.pool_inverse)[sub + t * 8 + lane_column(lane) + e % 2];
          }
        }
        multiply_weights<kDim>(
            probability, row(OnTensorCores<T>::value ? at.pool_unit : at.pool_key, sub), lane, sum);
      }
    }
    for (int h = 0; h < 2; ++h) along[h] = sum_of_four(along[h]);
    for (int turn = 0; turn < parts; ++turn) {
      __syncthreads();
      if (turn != part) continue;
      if (lane % 4 == 0) {
        for (int h = 0; h < 2; ++h) {
          const int own = tile + 8 * h + lane_row(lane);
          if (own >= count) continue;
          float& target = floats(at.d_scale)[own];
          target = turn == 0 ? along[h] : target + along[h];
        }
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int own = tile + lane_row(lane) + e / 2 * 8;
        if (own >= count) continue;
        const float norm = OnTensorCores<T>::value ? floats(at.d_out_norm)[owned_query(own)] : 1.0f;
#pragma unroll
        for (int t = 0; t < kChunks; ++t) {
          float& target = floats(at.gradient)[own * kDim + t * 8 + lane_column(lane) + e % 2];
          const float value = sum[t][e] * norm;
          target = turn == 0 ? value : target + value;
        }
      }
    }
    __syncthreads();
  }

  // The sum of a value over the four lanes of a token.
  static __device__ float sum_of_four(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
  }

  // Gradient of a vector through its normalisation: gradient is of x inverse. Four lanes share x.
  static __device__ void through_normalisation(const T* x, float inverse, int lane,
                                               float (&gradient)[kLaneChunks][8]) {
    float along = 0.0f;
#pragma unroll
    for (int l = 0; l < kLaneChunks; ++l) {
      const int chunk = lane + 4 * l;
      if (chunk < kChunks) along += dot_eight(x + chunk * 8, gradient[l]);
    }
    along = sum_of_four(along) * inverse;
    if (inverse >= 1.0f / kNormEpsilon) along = 0.0f;
#pragma unroll
    for (int l = 0; l < kLaneChunks; ++l) {
      const int chunk = lane + 4 * l;
      if (chunk >= kChunks) continue;
      float unit[8];
      read_eight(x + chunk * 8, unit);
#pragma unroll
      for (int c = 0; c < 8; ++c)
        gradient[l][c] = (gradient[l][c] - unit[c] * inverse * along) * inverse;
    }
  }

  // Calls visit(y, x, j) for the tokens of a window with its corner at (top, left) inside the image.
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
    const AttentionTokenShared& at = plan_.shared;
    const int lane = thread() % 4;
    const TokenRows<T> d_q(p_.d_q, batch_, head_);
#pragma unroll 1
    for (int item = thread() / 4; item < (own_.cells() + 7) / 8 * 8;
         item += kAttentionTokenThreads / 4) {
      const bool valid = item < own_.cells();
      const int own = valid ? item : 0;
      const int y = own_.row(own);
      const int x = own_.column(own);
      const int i = queries_.index(y, x);
      const float inverse = floats(at.query_inverse)[i];
      const float length = floats(at.length_scale)[i];
      float gradient[kLaneChunks][8] = {};
      float along = 0.0f;
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        const int chunk = lane + 4 * l;
        if (chunk >= kChunks || !valid) continue;
        float* shared_gradient = floats(at.gradient) + own * kDim + chunk * 8;
        float positional[8] = {};
        for_cells(y - window() / 2, x - window() / 2, [&](int key_y, int key_x, int j) {
          const int key = keys_.index(key_y, key_x);
          const float d_logit =
              floats(at.probability)[i * cells() + j] * floats(at.key_inverse)[key];
          const float d_weight = floats(at.d_weight)[i * cells() + j];
          float k[8], token[8];
          read_eight(row(at.key, key) + chunk * 8, k);
          read_eight(floats(at.tokens) + j * kDim + chunk * 8, token);
#pragma unroll
          for (int c = 0; c < 8; ++c) {
            gradient[l][c] += d_logit * k[c];
            positional[c] += d_weight * token[c];
          }
        });
        float q[8], from_pooled[8];
        read_eight(row(at.query, i) + chunk * 8, q);
        read_eight(shared_gradient, from_pooled);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          const float embedded = q[c] * inverse + floats(at.embedding)[chunk * 8 + c];
          along += gradient[l][c] * embedded;
          gradient[l][c] = (gradient[l][c] + from_pooled[c]) * (scale_ * length);
        }
        write_eight(gradient[l], shared_gradient);
#pragma unroll
        for (int c = 0; c < 8; ++c) gradient[l][c] += positional[c];
      }
      along = sum_of_four(along);
      if (valid && lane == 0) floats(at.d_scale)[own] = (floats(at.d_scale)[own] + along) * length;
      if (!p_.d_q.present()) continue;
      through_normalisation(row(at.query, i), inverse, lane, gradient);
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        if (valid && lane + 4 * l < kChunks) d_q.write(token(y, x), lane + 4 * l, gradient[l]);
      }
    }
  }

  __device__ void key_gradients() {
    if (window() == 0 || !(p_.d_k.present() || p_.d_v.present())) return;
    const AttentionTokenShared& at = plan_.shared;
    const int lane = thread() % 4;
    const TokenRows<T> d_k(p_.d_k, batch_, head_);
    const TokenRows<T> d_v(p_.d_v, batch_, head_);
#pragma unroll 1
    for (int item = thread() / 4; item < (own_.cells() + 7) / 8 * 8;
         item += kAttentionTokenThreads / 4) {
      const bool valid = item < own_.cells();
      const int own = valid ? item : 0;
      const int y = own_.row(own);
      const int x = own_.column(own);
      const int key = keys_.index(y, x);
      float d_key[kLaneChunks][8];
#pragma unroll
      for (int l = 0; l < kLaneChunks; ++l) {
        const int chunk = lane + 4 * l;
        if (chunk >= kChunks) continue;
        float d_value[8] = {}, embedded = 0.0f;
#pragma unroll
        for (int c = 0; c < 8; ++c) d_key[l][c] = 0.0f;
        // The queries that see this key: the cells of the window turned around.
        const int behind = window() - 1 - window() / 2;
        for_cells(y - behind, x - behind, [&](int query_y, int query_x, int turned) {
          const int j = cells() - 1 - turned;
          const int i = queries_.index(query_y, query_x);
          const float d_logit =
              floats(at.probability)[i * cells() + j] * scale_ * floats(at.length_scale)[i];
          const float d_unit = d_logit * floats(at.query_inverse)[i];
          const float weight = floats(at.weight)[i * cells() + j];
          float q[8], d_out[8];
          read_eight(row(at.query, i) + chunk * 8, q);
          read_eight(row(at.d_out, i) + chunk * 8, d_out);
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

  // The block's sums over its queries: scale, query embedding [d], local bias [L], token bias [L],
  // tokens [d, L]. A thread makes eight channels of one cell's tokens.
  __device__ void parameter_sums() {
    if (plan_.parameters == 0) return;
    const AttentionTokenShared& at = plan_.shared;
    float* sums = workspace_ + plan_.parameter_sums + index_t{blockIdx.x} * plan_.parameters;
    const int count = own_.cells();
#pragma unroll 1
    for (int e = thread(); e < 1 + channels(); e += kAttentionTokenThreads) {
      const float* values = e == 0 ? floats(at.d_scale) : floats(at.gradient) + e - 1;
      const int stride = e == 0 ? 1 : kDim;
      float sum = 0.0f;
#pragma unroll 1
      for (int own = 0; own < count; ++own) sum += values[own * stride];
      sums[e] = sum;
    }
#pragma unroll 1
    for (int e = thread(); e < 2 * cells(); e += kAttentionTokenThreads) {
      const float* values = floats(e < cells() ? at.probability : at.d_weight) + e % cells();
      float sum = 0.0f;
#pragma unroll 1
      for (int own = 0; own < count; ++own) sum += values[owned_query(own) * cells()];
      sums[1 + channels() + e] = sum;
    }
    if (!p_.d_tokens.present()) return;
#pragma unroll 1
    for (int item = thread(); item < cells() * kChunks; item += kAttentionTokenThreads) {
      const int j = item / kChunks;
      const int chunk = item % kChunks;
      float sum[8] = {};
#pragma unroll 1
      for (int y = own_.top; y < own_.top + own_.height; ++y) {
#pragma unroll 1
        for (int x = own_.left; x < own_.left + own_.width; ++x) {
          const int i = queries_.index(y, x);
          const float d_weight = floats(at.d_weight)[i * cells() + j] * floats(at.query_inverse)[i];
          float q[8];
          read_eight(row(at.query, i) + chunk * 8, q);
#pragma unroll
          for (int c = 0; c < 8; ++c) sum[c] += d_weight * q[c];
        }
      }
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (chunk * 8 + c < channels())
          sums[1 + channels() + 2 * cells() + (chunk * 8 + c) * cells() + j] = sum[c];
      }
    }
  }

  const AggregatedAttentionBackwardParams& p_;
  const AggregatedAttentionInputs& in_;
  const AttentionBackwardPlan& plan_;
  float* workspace_;
  unsigned char* memory_;
  unsigned heads_, head_, batch_;
  float scale_;
  RectangleBias bias_;
  Rectangle own_, queries_, keys_;
};

}  // namespace device

// Block (kAttentionTokenThreads). Grid: (head, tile, image), heads fastest, as their rows share
// sectors.
template <class T, int kDim>
__global__ void __launch_bounds__(kAttentionTokenThreads, kDim <= 32 ? 2 : 1)
    aggregated_attention_backward_tokens(AggregatedAttentionBackwardLaunch launch) {
  device::BackwardTokens<T, kDim>(launch, blockIdx.x).run();
}

}  // namespace transnext
