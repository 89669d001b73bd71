// position_bias_table on the GPU, float32: the MLP (row, col) -> E hidden -> h biases over a product
// set of coordinates.
//
//   hidden[e] = ReLU(w_row[e] row + w_col[e] col + b1[e])
//   table[h]  = b2[h] + sum_e w2[h, e] hidden[e]
//
// Backward, with D = d_table, P[e] = (hidden[e] > 0) sum_h w2[h, e] D[h] and sums over positions:
//
//   d_w2[h, e] = sum D[h] hidden[e],   d_b2[h] = sum D[h]
//   d_w_row[e] = sum P[e] row,   d_w_col[e] = sum P[e] col,   d_b1[e] = sum P[e]
//
// Hidden features live in registers only. Forward: a block computes 4 heads of 128 positions, four
// per lane. Its eight warps split the features, whose weights they read from shared memory by
// broadcast, and combine their partial sums there in warp order. Backward: a thread owns one
// feature and loops over a slice of the positions, whose D and coordinates it reads by broadcast; P
// is linear in D, so blocks of 4 heads add up. Each slice leaves one row of partial sums
// (partial_sums.cuh), so results are deterministic.
//
// 2 E (h + 3 ceil(h / 4)) flops per position forward, 2 E (2 h + 6 ceil(h / 4)) backward; 4 h bytes:
// bound by arithmetic.
#pragma once

#include "cuda/kernels/bias/position_bias_table_shape.h"
#include "cuda/kernels/common/partial_sums.cuh"
#include "cuda/kernels/common/runs.cuh"
#include "transnext/position_bias_table.h"

namespace transnext {

namespace device {

template <class C>
__device__ inline C element(const View<1>& view, index_t i) {
  return static_cast<const C*>(view.data)[i * view.stride[0]];
}
template <class C>
__device__ inline C element(const View<2>& view, index_t i, index_t j) {
  return static_cast<const C*>(view.data)[i * view.stride[0] + j * view.stride[1]];
}

// ReLU that keeps NaN.
template <class C>
__device__ inline C relu(C x) {
  return x < 0 ? C(0) : x;
}

}  // namespace device

// Block (kBiasTableLanes, kBiasTableGroups). Grid: tiles of (128 positions, 4 heads), heads fastest.
template <class C>
__global__ void __launch_bounds__(kBiasTableLanes* kBiasTableGroups)
    position_bias_table_forward(PositionBiasTableParams p) {
  constexpr int kHeads = kBiasTableHeads;
  constexpr int kPositions = kBiasTablePositions;
  constexpr int kLanes = kBiasTableLanes;
  constexpr int kGroups = kBiasTableGroups;
  constexpr int kThreads = kLanes * kGroups;
  using Weights = device::Run<C, 4>;
  __shared__ Weights first[kBiasTableHidden];   // w_row, w_col, b1
  __shared__ Weights second[kBiasTableHidden];  // w2 of the block's heads
  __shared__ C sums[kGroups][kHeads * kPositions][kLanes];
  C* table = static_cast<C*>(p.table.data);  // [h, R, S]
  const index_t heads = p.table.shape[0];
  const index_t columns = p.table.shape[2];
  const index_t positions = p.table.shape[1] * columns;
  const index_t hidden_size = p.fc1_weight.shape[0];
  const index_t chunks = (heads + kHeads - 1) / kHeads;
  const index_t tiles = (positions + kLanes * kPositions - 1) / (kLanes * kPositions) * chunks;
  const int thread = static_cast<int>(threadIdx.y * kLanes + threadIdx.x);

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t head = tile % chunks * kHeads;
    const index_t position = tile / chunks * kLanes * kPositions + threadIdx.x;
    C row[kPositions];
    C column[kPositions];
    C sum[kHeads][kPositions] = {};
    for (int i = 0; i < kPositions; ++i) {
      const index_t at = position + i * kLanes < positions ? position + i * kLanes : 0;
      row[i] = device::element<C>(p.row_coords, at / columns);
      column[i] = device::element<C>(p.col_coords, at % columns);
    }
    for (index_t begin = 0; begin < hidden_size; begin += kBiasTableHidden) {
      const int count = static_cast<int>(
          hidden_size - begin < kBiasTableHidden ? hidden_size - begin : kBiasTableHidden);
      __syncthreads();  // all have left the previous weights
      for (int e = thread; e < count; e += kThreads) {
        first[e] = {device::element<C>(p.fc1_weight, begin + e, 0),
                    device::element<C>(p.fc1_weight, begin + e, 1),
                    device::element<C>(p.fc1_bias, begin + e), C(0)};
        Weights weights;
        for (int h = 0; h < kHeads; ++h)
          weights.values[h] =
              head + h < heads ? device::element<C>(p.fc2_weight, head + h, begin + e) : C(0);
        second[e] = weights;
      }
      __syncthreads();
      for (int e = threadIdx.y; e < count; e += kGroups) {
        const Weights in = first[e];
        const Weights out = second[e];
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
          const C hidden =
              device::relu(in.values[0] * row[i] + (in.values[1] * column[i] + in.values[2]));
#pragma unroll
          for (int h = 0; h < kHeads; ++h) sum[h][i] += out.values[h] * hidden;
        }
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < kPositions; ++i)
        sums[threadIdx.y][h * kPositions + i][threadIdx.x] = sum[h][i];
    }
    __syncthreads();
    for (int k = threadIdx.y; k < kHeads * kPositions; k += kGroups) {
      const index_t h = head + k / kPositions;
      const index_t at = position + k % kPositions * kLanes;
      if (h >= heads || at >= positions) continue;
      C total = device::element<C>(p.fc2_bias, h);
      for (int group = 0; group < kGroups; ++group) total += sums[group][k][threadIdx.x];
      table[h * p.table.stride[0] + at / columns * p.table.stride[1] +
            at % columns * p.table.stride[2]] = total;
    }
    __syncthreads();  // before the next tile overwrites the sums
  }
}

// Block (kBiasTableFeatures). Grid: (slice of positions, 4 heads, features), features fastest.
template <class C>
__global__ void __launch_bounds__(kBiasTableFeatures)
    position_bias_table_backward(PositionBiasTableBackwardParams p) {
  constexpr int kHeads = kBiasTableHeads;
  constexpr int kTile = kBiasTableTile;
  __shared__ device::Run<C, kHeads> gradients[kTile];
  __shared__ device::Run<C, 2> coordinates[kTile];
  const C* d_table = static_cast<const C*>(p.d_table.data);  // [h, R, S]
  C* workspace = p.workspace;
  const index_t columns = p.d_table.shape[2];
  const index_t positions = p.d_table.shape[1] * columns;
  const PositionBiasTablePartials partials = {p.d_table.shape[0], p.fc1_weight.shape[0],
                                              position_bias_table_slices(positions)};
  const index_t groups = (partials.hidden + kBiasTableFeatures - 1) / kBiasTableFeatures;
  const index_t works = partials.fc1_rows() * groups;
  const int thread = static_cast<int>(threadIdx.x);

  for (index_t work = blockIdx.x; work < works; work += gridDim.x) {
    const index_t group = work % groups;
    const index_t chunk = work / groups % partials.chunks();
    const index_t slice = work / groups / partials.chunks();
    const index_t head = chunk * kHeads;
    const index_t e = group * kBiasTableFeatures + thread;
    const index_t begin = positions * slice / partials.slices;
    const index_t end = positions * (slice + 1) / partials.slices;

    C w_row = 0, w_col = 0, b1 = 0;
    C w2[kHeads] = {};
    if (e < partials.hidden) {
      w_row = device::element<C>(p.fc1_weight, e, 0);
      w_col = device::element<C>(p.fc1_weight, e, 1);
      b1 = device::element<C>(p.fc1_bias, e);
      for (int h = 0; h < kHeads; ++h) {
        if (head + h < partials.heads) w2[h] = device::element<C>(p.fc2_weight, head + h, e);
      }
    }
    C d_row = 0, d_col = 0, d_b1 = 0;
    C d_w2[kHeads] = {};
    C d_b2[kHeads] = {};  // over the positions that this thread loads
    for (index_t first = begin; first < end; first += kTile) {
      const int count = static_cast<int>(end - first < kTile ? end - first : kTile);
      __syncthreads();  // all have left the previous tile
      if (thread < count) {
        const index_t row = (first + thread) / columns;
        const index_t column = (first + thread) % columns;
        device::Run<C, kHeads> loaded = {};
        for (int h = 0; h < kHeads; ++h) {
          if (head + h < partials.heads)
            loaded.values[h] = d_table[(head + h) * p.d_table.stride[0] +
                                       row * p.d_table.stride[1] + column * p.d_table.stride[2]];
          d_b2[h] += loaded.values[h];
        }
        gradients[thread] = loaded;
        coordinates[thread] = {device::element<C>(p.row_coords, row),
                               device::element<C>(p.col_coords, column)};
      }
      __syncthreads();
#pragma unroll 4
      for (int i = 0; i < count; ++i) {
        const device::Run<C, kHeads> d = gradients[i];
        const device::Run<C, 2> at = coordinates[i];
        const C hidden = device::relu(w_row * at.values[0] + (w_col * at.values[1] + b1));
        C d_hidden = 0;
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          d_hidden += w2[h] * d.values[h];
          d_w2[h] += d.values[h] * hidden;
        }
        d_hidden = hidden > 0 ? d_hidden : C(0);
        d_row += d_hidden * at.values[0];
        d_col += d_hidden * at.values[1];
        d_b1 += d_hidden;
      }
    }

    if (e < partials.hidden) {
      for (int h = 0; h < kHeads; ++h) {
        if (head + h < partials.heads)
          workspace[(slice * partials.heads + head + h) * partials.hidden + e] = d_w2[h];
      }
      C* fc1 = workspace + partials.fc1() +
               (slice * partials.chunks() + chunk) * 3 * partials.hidden + e;
      fc1[0] = d_row;
      fc1[partials.hidden] = d_col;
      fc1[2 * partials.hidden] = d_b1;
    }
    __syncthreads();
    if (thread < kTile) {
      for (int h = 0; h < kHeads; ++h) gradients[thread].values[h] = d_b2[h];
    }
    __syncthreads();
    if (group == 0 && thread < kHeads && head + thread < partials.heads) {
      C sum = 0;
      for (int i = 0; i < kTile; ++i) sum += gradients[i].values[thread];
      workspace[partials.fc2_bias() + slice * partials.heads + head + thread] = sum;
    }
  }
}

}  // namespace transnext
