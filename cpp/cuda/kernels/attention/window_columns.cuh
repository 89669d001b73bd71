// A window of 3 x 3 on tensor cores, forward and backward: which columns of MMAs a token's window is.
//
// The 16 tokens of an MMA are a patch of 2 x 8 of the image, whose windows hold the 4 x 10 tokens of
// its reach: five MMAs of 8 tokens, where MMA n has columns 2 n and 2 n + 1 of the reach, row by row.
// A lane's tokens of the patch are in column x = lane / 4 of it, and those of the reach in row y =
// lane % 4: columns x, x + 1 and x + 2 lie in the window. They are MMA x / 2's and the next one's.
#pragma once

#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

// The columns of a patch's products with its reach that may be a lane's, for each half of the patch:
// six columns from 0 on or, for x of 4 and more, from 4 on.
struct WindowColumns {
  static constexpr int kWindow = 3;
  static constexpr int kReachTiles = 5;  // MMAs

  float of[2][kWindow + 3];

  // Selects columns `first` and `first` + 1 from one MMA or from the next but one.
  __device__ void choose(int first, int x, const float (&here)[4], const float (&there)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) of[e / 2][first + e % 2] = (x & 4) != 0 ? there[e] : here[e];
  }

  // The three columns of the window.
  __device__ void finish(int x, float (&chosen)[2][kWindow]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float (&c)[kWindow + 3] = of[half];
      const bool two = (x & 2) != 0;
      const float four[kWindow + 1] = {two ? c[2] : c[0], two ? c[3] : c[1], two ? c[4] : c[2],
                                       two ? c[5] : c[3]};
#pragma unroll
      for (int j = 0; j < kWindow; ++j) chosen[half][j] = (x & 1) != 0 ? four[j + 1] : four[j];
    }
  }
};

// The weights of a lane's window, rounded to T, as operands of products with the reach: zero but in
// columns x to x + 2.
template <class T>
struct WindowWeights {
  unsigned pairs[2][2];  // of each half, in MMA x / 2 and the next
  int first;

  __device__ WindowWeights(const float (&weights)[2][WindowColumns::kWindow], int x)
      : first(x / 2) {
    const bool odd = (x & 1) != 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float (&w)[WindowColumns::kWindow] = weights[half];
      pairs[half][0] = pack<T>(odd ? 0.0f : w[0], odd ? w[0] : w[1]);
      pairs[half][1] = pack<T>(odd ? w[1] : w[2], odd ? w[2] : 0.0f);
    }
  }

  // The part of MMA n.
  __device__ unsigned of(int n, int half) const {
    return n == first ? pairs[half][0] : n == first + 1 ? pairs[half][1] : 0u;
  }
};

}  // namespace transnext::device
