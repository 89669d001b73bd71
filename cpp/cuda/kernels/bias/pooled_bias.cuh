// The bias of a pooled logit, dense or by table and axis maps (transnext/aggregated_attention.h),
// and the table entries that its gradient goes to.
//
// Others may write to the maps, even while a kernel runs, and their entries are not checked before.
// So every entry is bounded as it is read: one outside the table becomes the last entry inside, and
// no kernel reads or writes beyond a table.
#pragma once

#include "transnext/aggregated_attention.h"

namespace transnext::device {

class PooledBias {
 public:
  __device__ PooledBias(const PoolBias& bias, index_t head)
      : bias_(bias),
        values_(static_cast<const float*>(bias.values.data) + head * bias.values.stride[0]) {}

  // The bias of query (i, j), with index n, and pooled key (a, b), with index m.
  __device__ float at(int i, int j, index_t n, int a, int b, int m) const {
    if (!bias_.values.present()) return 0.0f;
    if (!bias_.row_map.present())
      return values_[n * bias_.values.stride[1] + m * bias_.values.stride[2]];
    const float* row = values_ + table_row(i, a) * bias_.values.stride[1];
    float sum = 0.0f;
#pragma unroll 1
    for (int tap = 0; tap < taps(); ++tap)
      sum += weight(j, b, tap) * row[table_column(j, b, tap) * bias_.values.stride[2]];
    return sum;
  }

  // Adds the gradient of that bias to the table's, whose rows follow each other.
  __device__ void add_to(float* table, int i, int j, int a, int b, float gradient) const {
    float* row = table + table_row(i, a) * static_cast<int>(bias_.values.shape[2]);
#pragma unroll 1
    for (int tap = 0; tap < taps(); ++tap)
      atomicAdd(row + table_column(j, b, tap), gradient * weight(j, b, tap));
  }

  __device__ const float* values() const { return values_; }

  // For a dense bias, and for a table whose maps grow by one from row to row and from column to
  // column of the image: the value of a query and a key is values()[query_offset(i, j, n) +
  // key_offset(a, b, m)], for queries up to row last_i and column last_j.
  __device__ int key_offset(int a, int b, int m, int last_i, int last_j) const {
    const int column_step = static_cast<int>(bias_.values.stride[2]);
    if (bias_.dense()) return m * column_step;
    return first_table_row(0, a, last_i) * static_cast<int>(bias_.values.stride[1]) +
           first_table_column(0, b, last_j) * column_step;
  }
  __device__ int query_offset(int i, int j, int n) const {
    const int row_step = static_cast<int>(bias_.values.stride[1]);
    if (bias_.dense()) return n * row_step;
    return i * row_step + j * static_cast<int>(bias_.values.stride[2]);
  }

  __device__ int taps() const { return static_cast<int>(bias_.col_map.shape[2]); }
  __device__ int table_row(int i, int a) const { return first_table_row(i, a, 0); }
  __device__ int table_column(int j, int b, int tap) const {
    return first_table_column(j, b, 0, tap);
  }
  // The same where the map grows by one, `further` times from here.
  __device__ int first_table_row(int i, int a, int further) const {
    const int entry =
        static_cast<const int*>(bias_.row_map.data)[i * static_cast<int>(bias_.row_map.stride[0]) +
                                                    a * static_cast<int>(bias_.row_map.stride[1])];
    return bounded(entry, static_cast<int>(bias_.values.shape[1]) - further);
  }
  __device__ int first_table_column(int j, int b, int further, int tap = 0) const {
    const int entry = static_cast<const int*>(bias_.col_map.data)[offset(bias_.col_map, j, b, tap)];
    return bounded(entry, static_cast<int>(bias_.values.shape[2]) - further);
  }
  __device__ float weight(int j, int b, int tap) const {
    if (!bias_.col_weights.present()) return 1.0f;
    return static_cast<const float*>(bias_.col_weights.data)[offset(bias_.col_weights, j, b, tap)];
  }

 private:
  // The entry if it is in 0 .. size - 1, else size - 1.
  __device__ static int bounded(int entry, int size) {
    const unsigned last = static_cast<unsigned>(size) - 1;
    return static_cast<int>(static_cast<unsigned>(entry) < last ? static_cast<unsigned>(entry)
                                                                : last);
  }
  __device__ static int offset(const View<3>& map, int j, int b, int tap) {
    return j * static_cast<int>(map.stride[0]) + b * static_cast<int>(map.stride[1]) +
           tap * static_cast<int>(map.stride[2]);
  }

  const PoolBias& bias_;
  const float* values_;
};

}  // namespace transnext::device
