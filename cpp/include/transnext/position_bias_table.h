// position_bias_table: the continuous position bias MLP on a product set of coordinates,
//
//   hidden[e]         = ReLU(fc1_weight[e, 0] row[r] + fc1_weight[e, 1] col[s] + fc1_bias[e])
//   table[head, r, s] = fc2_bias[head] + sum_e fc2_weight[head, e] hidden[e]
#pragma once

#include "transnext/tensor.h"

namespace transnext {

struct PositionBiasTableParams {
  View<1> row_coords;  // [R] C(T)
  View<1> col_coords;  // [S] C(T)
  View<2> fc1_weight;  // [E, 2] C(T)
  View<1> fc1_bias;    // [E] C(T)
  View<2> fc2_weight;  // [h, E] C(T)
  View<1> fc2_bias;    // [h] C(T)
  View<3> table;       // [h, R, S] C(T)
};

// Absent gradients are not computed. The coordinates are constants of the grid and have none.
struct PositionBiasTableBackwardParams {
  View<3> d_table;             // [h, R, S] C(T)
  View<1> row_coords;          // [R] C(T)
  View<1> col_coords;          // [S] C(T)
  View<2> fc1_weight;          // [E, 2] C(T)
  View<1> fc1_bias;            // [E] C(T)
  View<2> fc2_weight;          // [h, E] C(T)
  View<2> d_fc1_weight;        // [E, 2] C(T), optional
  View<1> d_fc1_bias;          // [E] C(T), optional
  View<2> d_fc2_weight;        // [h, E] C(T), optional
  View<1> d_fc2_bias;          // [h] C(T), optional
  float* workspace = nullptr;  // CUDA only: partial sums, allocated by the launches
};

namespace cpu {
void position_bias_table(const PositionBiasTableParams& params, int threads);
void position_bias_table_backward(const PositionBiasTableBackwardParams& params, int threads);
}  // namespace cpu

}  // namespace transnext
