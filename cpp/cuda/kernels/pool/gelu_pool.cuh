// gelu_pool on the GPU, T in float, Half, BFloat16; float arithmetic.
//
//   out[b, p, c] = 1 / |bin p| * sum over n in bin p of GELU(x[b, n, c])
//   d_x[b, n, c] = GELU'(x[b, n, c]) * sum over bins p with n in them of d_out[b, p, c] / |bin p|
//
// Threads along x run along channels, two each, so that every access of x, out, d_out and d_x is a
// run of consecutive elements, with several in flight. Forward: a block computes some channels of
// one bin; its rows of threads split the cells, and their partial sums are added in row order in
// shared memory. Where bins are small or many, each row has bins of its own. Backward: a block
// computes a run of tokens of one image row, whose gradients it gathers from the bins they lie in
// (one, or up to four where bins overlap). So there are no atomics, and both directions are
// deterministic.
//
// Bytes per element of x: forward sizeof(T) read, backward 2 sizeof(T), d_out from cache; 20 flops
// forward, 29 backward. At 3 TB/s, float32 needs 1.3 ps per element forward: bound by memory.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/runs.cuh"
#include "cuda/kernels/common/small_divisor.cuh"
#include "cuda/kernels/pool/gelu_pool_shape.h"
#include "transnext/gelu_pool.h"

namespace transnext {

namespace device {

// Cells of a bin along one axis.
struct Bin {
  index_t begin;
  int size;

  __device__ Bin(index_t index, index_t bins, index_t cells)
      : begin(quotient(index * cells, bins)),
        size(static_cast<int>(quotient((index + 1) * cells + bins - 1, bins) - begin)) {}
};

}  // namespace device

// Block (lanes <= kGeluPoolLanes, threads of a bin, bins), the last two together at most
// kGeluPoolRows. Grid: tiles of (bins of all images, channels of the lanes), channels fastest.
template <class T>
__global__ void __launch_bounds__(kGeluPoolLanes* kGeluPoolRows, kGeluPoolBlocks)
    gelu_pool_forward(GeluPoolParams p) {
  constexpr int kRun = kGeluPoolRun;
  __shared__ device::Run<float, kRun> partial[kGeluPoolRows * kGeluPoolLanes];
  const T* x = static_cast<const T*>(p.x.data);  // [B, N, C]
  T* out = static_cast<T*>(p.out.data);          // [B, P, C]
  const bool runs = device::has_runs<T, kRun>(p.x) && device::has_runs<T, kRun>(p.out);
  const index_t channels = p.x.shape[2];
  const index_t tile_channels = index_t{blockDim.x} * kRun;
  const index_t channel_tiles = device::quotient(channels + tile_channels - 1, tile_channels);
  const index_t bins = p.x.shape[0] * p.pool_grid.size();
  const index_t tiles = device::quotient(bins + blockDim.z - 1, blockDim.z) * channel_tiles;

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t bin_tile = device::quotient(tile, channel_tiles);
    const index_t channel = (tile - bin_tile * channel_tiles) * tile_channels + threadIdx.x * kRun;
    const index_t number = bin_tile * blockDim.z + threadIdx.z;
    const index_t count = number < bins ? channels - channel : 0;
    const index_t batch = device::quotient(number, p.pool_grid.size());
    const index_t bin = number - batch * p.pool_grid.size();
    const index_t a = device::quotient(bin, p.pool_grid.width);
    const index_t b = bin - a * p.pool_grid.width;
    const device::Bin rows(a, p.pool_grid.height, p.grid.height);
    const device::Bin columns(b, p.pool_grid.width, p.grid.width);
    const int width = columns.size;

    float sum[kRun] = {};
    if (count > 0) {
      const int cells = rows.size * width;
      const int step = static_cast<int>(blockDim.y);
      int cell = static_cast<int>(threadIdx.y);
      int column = cell % width;
      const T* from =
          x + batch * p.x.stride[0] + channel * p.x.stride[2] +
          ((rows.begin + cell / width) * p.grid.width + columns.begin + column) * p.x.stride[1];
      const index_t to_next_row = (p.grid.width - width) * p.x.stride[1];
      while (cell < cells) {
        device::RawRun<T, kRun> runs_of[kGeluPoolAtOnce];  // zeros add GELU(0) = 0
#pragma unroll
        for (int k = 0; k < kGeluPoolAtOnce; ++k) {
          if (cell < cells) runs_of[k].load(from, p.x.stride[2], count, runs);
          cell += step;
          from += step * p.x.stride[1];
          for (column += step; column >= width; column -= width) from += to_next_row;
        }
#pragma unroll
        for (int k = 0; k < kGeluPoolAtOnce; ++k) {
          float values[kRun];
          runs_of[k].read(values);
#pragma unroll
          for (int i = 0; i < kRun; ++i) sum[i] += device::gelu(values[i]);
        }
      }
    }
    if (blockDim.y > 1) {
      device::Run<float, kRun>* mine =
          partial + (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
      for (int i = 0; i < kRun; ++i) mine->values[i] = sum[i];
      __syncthreads();
      if (threadIdx.y == 0) {
        for (unsigned row = 1; row < blockDim.y; ++row) {
          const device::Run<float, kRun> other = mine[row * blockDim.x];
          for (int i = 0; i < kRun; ++i) sum[i] += other.values[i];
        }
      }
      __syncthreads();  // before the next tile overwrites the partial sums
    }
    if (threadIdx.y == 0 && count > 0) {
      const float inverse_size = 1.0f / static_cast<float>(rows.size * width);
      for (int i = 0; i < kRun; ++i) sum[i] *= inverse_size;
      device::store_run(
          out + batch * p.out.stride[0] + bin * p.out.stride[1] + channel * p.out.stride[2],
          p.out.stride[2], count, runs, sum);
    }
  }
}

namespace device {

// sum over the bins p that contain a token of d_out[p] / |bin p|, for any two grids.
template <class T, int kRun>
__device__ inline void gather_from_bins(const GeluPoolBackwardParams& p, index_t row,
                                        index_t column, const T* gradients, index_t count,
                                        bool runs, float (&sum)[kRun]) {
  const index_t last_a = bin_end(row, p.grid.height, p.pool_grid.height);
  const index_t last_b = bin_end(column, p.grid.width, p.pool_grid.width);
#pragma unroll 1
  for (index_t a = bin_begin(row, p.grid.height, p.pool_grid.height); a < last_a; ++a) {
    const index_t height = bin_end(a, p.pool_grid.height, p.grid.height) -
                           bin_begin(a, p.pool_grid.height, p.grid.height);
#pragma unroll 1
    for (index_t b = bin_begin(column, p.grid.width, p.pool_grid.width); b < last_b; ++b) {
      const index_t width = bin_end(b, p.pool_grid.width, p.grid.width) -
                            bin_begin(b, p.pool_grid.width, p.grid.width);
      const index_t bin = a * p.pool_grid.width + b;
      const float inverse_size = 1.0f / static_cast<float>(height * width);
      RawRun<T, kRun> raw;
      raw.load(gradients + bin * p.d_out.stride[1], p.d_out.stride[2], count, runs);
      float gradient[kRun];
      raw.read(gradient);
      for (int i = 0; i < kRun; ++i) sum[i] += gradient[i] * inverse_size;
    }
  }
}

}  // namespace device

// Block (lanes <= kGeluPoolLanes, kGeluPoolRows). Grid: tiles of (image, image row, kGeluPoolColumns
// tokens of it, channels of the lanes), channels fastest.
template <class T>
__global__ void __launch_bounds__(kGeluPoolLanes* kGeluPoolRows, kGeluPoolBlocks)
    gelu_pool_backward(GeluPoolBackwardParams p) {
  constexpr int kRun = kGeluPoolRun;
  constexpr int kAtOnce = kGeluPoolPairAtOnce;
  const T* x = static_cast<const T*>(p.x.data);          // [B, N, C]
  const T* d_out = static_cast<const T*>(p.d_out.data);  // [B, P, C]
  T* d_x = static_cast<T*>(p.d_x.data);                  // [B, N, C]
  const bool runs = device::has_runs<T, kRun>(p.x) && device::has_runs<T, kRun>(p.d_out) &&
                    device::has_runs<T, kRun>(p.d_x);
  const index_t channels = p.x.shape[2];
  const index_t tile_channels = index_t{blockDim.x} * kRun;
  const index_t channel_tiles = device::quotient(channels + tile_channels - 1, tile_channels);
  const index_t tiles =
      p.x.shape[0] * p.grid.height * gelu_pool_row_parts(p.grid.width) * channel_tiles;
  const auto width = static_cast<unsigned>(p.grid.width);
  const auto row_parts = static_cast<unsigned>(gelu_pool_row_parts(p.grid.width));
  // Where the pooled grid divides the grid, each token lies in one bin, and all bins have the same
  // size.
  const auto bin_height =
      static_cast<unsigned>(device::quotient(p.grid.height, p.pool_grid.height));
  const auto bin_width = static_cast<unsigned>(device::quotient(p.grid.width, p.pool_grid.width));
  const bool even = bin_height * p.pool_grid.height == p.grid.height &&
                    bin_width * p.pool_grid.width == p.grid.width && bin_width < 1u << 16;
  const unsigned bin_rows = even ? bin_height : 1;
  const unsigned bin_columns = even ? bin_width : 1;
  const device::SmallDivisor by_bin_columns(static_cast<int>(bin_columns));
  const float inverse_size = 1.0f / static_cast<float>(bin_rows * bin_columns);

  for (index_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const index_t parts_before = device::quotient(tile, channel_tiles);
    const index_t channel =
        (tile - parts_before * channel_tiles) * tile_channels + threadIdx.x * kRun;
    const index_t count = channels - channel;
    if (count <= 0) continue;
    const index_t rows_before = device::quotient(parts_before, row_parts);
    const auto first =
        static_cast<unsigned>(parts_before - rows_before * row_parts) * kGeluPoolColumns;
    const unsigned end = first + kGeluPoolColumns < width ? first + kGeluPoolColumns : width;
    const index_t batch = device::quotient(rows_before, p.grid.height);
    const auto row = static_cast<unsigned>(rows_before - batch * p.grid.height);
    const T* gradients = d_out + batch * p.d_out.stride[0] + channel * p.d_out.stride[2];
    // The bin of the row part's first token, and that token's offset in the bin.
    const unsigned bin = first / bin_columns;
    const auto into_bin = static_cast<int>(first - bin * bin_columns);
    const T* bins = gradients + (row / bin_rows * p.pool_grid.width + bin) * p.d_out.stride[1];
    unsigned column = first + threadIdx.y;
    const index_t token = index_t{row} * width + column;
    const T* from = x + batch * p.x.stride[0] + token * p.x.stride[1] + channel * p.x.stride[2];
    T* to = d_x + batch * p.d_x.stride[0] + token * p.d_x.stride[1] + channel * p.d_x.stride[2];

    for (; column < end; column += kAtOnce * kGeluPoolRows) {
      device::RawRun<T, kRun> values_of[kAtOnce];
      device::RawRun<T, kRun> gradients_of[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const unsigned here = column + static_cast<unsigned>(k) * kGeluPoolRows;
        if (here < end) {
          values_of[k].load(from, p.x.stride[2], count, runs);
          const int b = by_bin_columns.quotient(into_bin + static_cast<int>(here - first));
          if (even)
            gradients_of[k].load(bins + b * p.d_out.stride[1], p.d_out.stride[2], count, runs);
        }
        from += kGeluPoolRows * p.x.stride[1];
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const unsigned here = column + static_cast<unsigned>(k) * kGeluPoolRows;
        float values[kRun];
        float sum[kRun] = {};
        values_of[k].read(values);
        if (even) {
          gradients_of[k].read(sum);
#pragma unroll
          for (int i = 0; i < kRun; ++i) sum[i] *= inverse_size;
        } else if (here < end) {
          device::gather_from_bins(p, row, here, gradients, count, runs, sum);
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) sum[i] *= device::gelu_slope(values[i]);
        if (here < end) device::store_run(to, p.d_x.stride[2], count, runs, sum);
        to += kGeluPoolRows * p.d_x.stride[1];
      }
    }
  }
}

}  // namespace transnext
