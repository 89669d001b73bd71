// out[e] = sum over rows of partials[row, e]: the second stage of the deterministic reductions.
//
// Lanes run along elements. Each of a block's kPartialSumsRows rows of threads adds every
// kPartialSumsRows-th row of partials; these sums are then added in order, in shared memory. Bytes
// per element: 4 per row of partials.
#pragma once

#include "cuda/kernels/common/partial_sums_params.h"
#include "cuda/kernels/common/partial_sums_shape.h"

namespace transnext {

// Block (32, kPartialSumsRows). Grid: tiles of 32 elements.
template <class C>
__global__ void sum_partials(PartialSumsParams p) {
  __shared__ C sums[kPartialSumsRows][kPartialSumsLanes];
  const C* partials = p.workspace + p.offset;
  C* out = static_cast<C*>(p.out.data);
  const index_t elements = p.out.shape[0] * p.out.shape[1] * p.out.shape[2];
  for (index_t first = index_t{blockIdx.x} * kPartialSumsLanes; first < elements;
       first += index_t{gridDim.x} * kPartialSumsLanes) {
    const index_t element = first + threadIdx.x;
    C sum = 0;
    if (element < elements) {
      for (index_t row = threadIdx.y; row < p.rows; row += kPartialSumsRows)
        sum += partials[row * p.stride + element];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && element < elements) {
      for (unsigned row = 1; row < kPartialSumsRows; ++row) sum += sums[row][threadIdx.x];
      const index_t c = element % p.out.shape[2];
      const index_t b = element / p.out.shape[2] % p.out.shape[1];
      const index_t a = element / p.out.shape[2] / p.out.shape[1];
      out[a * p.out.stride[0] + b * p.out.stride[1] + c * p.out.stride[2]] = sum;
    }
    __syncthreads();  // before the next tile overwrites the sums
  }
}

}  // namespace transnext
