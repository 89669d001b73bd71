// deformable_attention on the GPU, T in float, Half, BFloat16; float arithmetic. The formulas are in
// transnext/deformable_attention.h.
//
// A warp computes a query's head, up to 64 channels of it. First each lane places one sample; then
// lanes run along channels, two each, so that every access of a cell is a run of consecutive
// elements, and parts of the warp take samples in turn where channels are fewer than 64. Any number
// of samples works, 32 at a time. A cell of share 0 is not read.
//
// Bytes per output: 4 samples sizeof(T) read, nearly all of them from the L2 cache since queries lie
// beside one another on the map, and sizeof(T) written; 8 samples flops. Bound by the L2 cache.
#pragma once

#include "cuda/kernels/common/small_divisor.cuh"
#include "cuda/kernels/deformable/samples.cuh"

namespace transnext {

// Block (32, warps). Grid: tiles of (query of all images, head, channels of a warp), channels
// fastest.
template <class T>
__global__ void __launch_bounds__(kDeformableThreads, kDeformableBlocks)
    deformable_attention_forward(DeformableAttentionParams p) {
  constexpr int kRun = kDeformableRun;
  __shared__ device::Chunk chunks[kDeformableWarps];
  device::Chunk& chunk = chunks[threadIdx.y];
  const DeformableInputs& in = p.in;
  const bool runs = device::has_runs<T, kRun>(in.value) && device::has_runs<T, kRun>(p.out);
  const index_t channels = in.value.shape[3];
  const device::WarpParts warp(channels);
  const index_t channel_tiles = device::quotient(channels + warp.step() - 1, warp.step());
  const index_t queries = in.logits.shape[1];
  const index_t heads = in.logits.shape[2];
  const int samples = static_cast<int>(in.logits.shape[3]);
  const index_t tiles = in.logits.shape[0] * queries * heads * channel_tiles;
  const int lane = static_cast<int>(threadIdx.x);

  for (index_t tile = index_t{blockIdx.x} * blockDim.y + threadIdx.y; tile < tiles;
       tile += index_t{gridDim.x} * blockDim.y) {
    const index_t head_number = device::quotient(tile, channel_tiles);
    const index_t query_number = device::quotient(head_number, heads);
    const index_t image = device::quotient(query_number, queries);
    const device::HeadPlace at{image, query_number - image * queries,
                               head_number - query_number * heads};
    const index_t channel = (tile - head_number * channel_tiles) * warp.step() + warp.channel;
    const index_t count = channels - channel;
    const T* value = at.cells<T>(in.value) + channel * in.value.stride[3];
    const device::HeadSoftmax softmax(at.row<const T>(in.logits), in.logits.stride[3], samples);
    float sum[kRun] = {};
    for (int first = 0; first < samples; first += kDeformableChunk) {
      __syncwarp();  // before the chunk is overwritten
      if (first + lane < samples)
        chunk.set(lane, device::Sample::place<T>(in, at, first + lane, softmax));
      __syncwarp();
      const int end = samples - first < kDeformableChunk ? samples - first : kDeformableChunk;
      for (int i = warp.part; i < end; i += warp.parts) {
        device::RawRun<T, kRun> cells[device::kCorners];
        float shares[device::kCorners];
#pragma unroll
        for (int corner = 0; corner < device::kCorners; ++corner) {
          const int cell = chunk.cells[corner][i];
          shares[corner] = chunk.shares[corner][i];
          if (cell >= 0 && shares[corner] != 0.0f && count > 0)
            cells[corner].load(value + cell * in.value.stride[1], in.value.stride[3], count, runs);
          else
            shares[corner] = 0.0f;
        }
#pragma unroll
        for (int corner = 0; corner < device::kCorners; ++corner) {
          float values[kRun];
          cells[corner].read(values);
#pragma unroll
          for (int k = 0; k < kRun; ++k) sum[k] += shares[corner] * values[k];
        }
      }
    }
    for (int distance = warp.lanes; distance < 32; distance *= 2) {
#pragma unroll
      for (int k = 0; k < kRun; ++k) sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], distance);
    }
    if (warp.part == 0 && count > 0)
      device::store_run(at.row<T>(p.out) + channel * p.out.stride[3], p.out.stride[3], count, runs,
                        sum);
  }
}

}  // namespace transnext
