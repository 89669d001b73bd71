// aggregated_attention backward, 16-bit types with a window of 3 x 3: the gradients of keys and
// values, from the weights that the queries of their windows left in shared memory:
//
//   d_kn(n') = sum_j d_l_j(n' - offset_j) qh(n' - offset_j),
//   d_v(n')  = sum_j w_j(n' - offset_j) d_out(n' - offset_j).
#pragma once

#include "cuda/kernels/attention/backward/strip_queries.cuh"

namespace transnext::device {

template <class Parts>
struct StripKeys {
  using T = typename Parts::Element;
  static constexpr int kDim = Parts::kChannels;
  static constexpr int kChunks = Parts::kChunks;
  static constexpr int kWindow = Parts::kWindow;
  static constexpr int kCells = Parts::kCells;

  const Parts& strip;

  // The keys whose windows' queries are all there: rows 0 to the last but two.
  __device__ void compute() const {
    const AggregatedAttentionBackwardParams& p = strip.p;
    if (!(p.d_k.present() || p.d_v.present())) return;
    const int thread = thread_index();
    const int x = thread % 32 / 4;
    const int y = thread % 4;
    const TileCorner corner = strip.corner();
    // The two patches of a row overlap: only 14 columns of queries are all there.
    const bool right = thread / 32 % 2 != 0;
    const int row = thread / 64 * 2;
    const int column = right ? 8 : 2;
    const int first_row = corner.top - 1 + row;
    const int first_column = corner.left - 1 + column;
    if (first_row >= strip.state().owned_end || first_row + 1 < strip.state().owned_top ||
        first_column + (right ? 2 : 0) >= corner.width)
      return;
    const float unit = strip.unit();
    const float scaling = strip.state().scale * inverse_or_zero(unit);
    const int queries = row * kStripColumns + column - 2;  // the first of the reach

    // For each of the lane's queries in the reach, the cell in which it sees one of the lane's keys.
    float d_logit[2][kWindow], weight[2][kWindow], embedded[2] = {};
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {
      const int query = queries + y * kStripColumns + x + j;
      const float factor = scaling * strip.lengths()[query];
      const int cell = query * kCells + (kWindow - 1 - y) * kWindow + kWindow - 1 - j;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool seen = h == 0 ? y < kWindow : y > 0;
        // There is something to read where there is no such cell, too.
        const float gradient = strip.d_logits()[cell + h * kWindow] * factor;
        const float of_value = to_float(strip.weights()[cell + h * kWindow]);
        d_logit[h][j] = seen ? gradient : 0.0f;
        weight[h][j] = seen ? of_value : 0.0f;
        embedded[h] += d_logit[h][j];
      }
    }
    float d_key[kChunks][4] = {}, d_value[kChunks][4] = {};
    ReachRows<T, kDim, kStripColumns>{strip.queries(), queries}.add(d_logit, thread, d_key);
    ReachRows<T, kDim, kStripColumns>{strip.d_outs(), queries}.add(weight, thread, d_value);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int image_row = first_row + h;
      const int image_column = first_column + x;
      const bool owned =
          strip.owns_row(image_row) && corner.column_inside(image_column) && !(right && x < 2);
      store(owned, corner.token(image_row, image_column), (row + h) * kStripKeyColumns + column + x,
            h, unit, sum_of_four(embedded[h]), d_key, d_value);
    }
  }

 private:
  __device__ void store(bool owned, int token, int key, int h, float unit, float from_embedding,
                        const float (&d_key)[kChunks][4],
                        const float (&d_value)[kChunks][4]) const {
    const int lane_column = thread_index() % 4 * 2;
    if (owned && strip.p.d_v.present()) {
      const float weight_unit = strip.state().weight_unit;
      float gradient[kChunks][2];
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        gradient[i][0] = d_value[i][2 * h] * weight_unit;
        gradient[i][1] = d_value[i][2 * h + 1] * weight_unit;
      }
      HeadRows<T>(strip.tensors().d_v).store_pairs(token, lane_column, gradient);
    }
    if (!strip.p.d_k.present()) return;
    const StripKey terms = strip.key_terms()[key];
    float2 unit_key[kChunks];
    float gradient[kChunks][2];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const float2 two = floats_of<T>(
          reinterpret_cast<const unsigned*>(strip.keys().vector(key, i))[thread_index() % 4]);
      unit_key[i] = {two.x * terms.norm, two.y * terms.norm};
      const float* embedding = strip.embedding() + 8 * i + lane_column;
      gradient[i][0] = d_key[i][2 * h] + from_embedding * embedding[0];
      gradient[i][1] = d_key[i][2 * h + 1] + from_embedding * embedding[1];
    }
    through_normalisation(unit_key, terms.inverse, unit, gradient);
    if (owned) HeadRows<T>(strip.tensors().d_k).store_pairs(token, lane_column, gradient);
  }
};

}  // namespace transnext::device
