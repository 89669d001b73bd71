// The patches of a 3 x 3 window on tensor cores, and which tokens a lane holds of them.
//
// The 16 tokens of an MMA are a patch of 2 x 8 of the image. Their windows hold 4 x 10 tokens, the
// patch's reach: five MMAs of 8 tokens, where MMA n holds columns 2 n and 2 n + 1 of the reach, row by
// row. With x = lane / 4 and y = lane % 4 a lane holds the patch's tokens in column x, one in each row
// (half). Of the reach it holds the tokens in row y and columns x, x + 1, x + 2: window row y of half 0
// and window row y - 1 of half 1, three cells of each.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext::device {

class WindowPatch {
 protected:
  static constexpr int kWindow = 3;
  static constexpr int kCells = kWindow * kWindow;
  static constexpr int kReachTiles = 5;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ int x() { return lane() / 4; }
  static __device__ int y() { return lane() % 4; }

  static __device__ bool within(const Rectangle& rectangle, int y, int x) {
    return y < rectangle.top + rectangle.height && x < rectangle.left + rectangle.width;
  }

  // The index in a rectangle of a token, or of the nearest token inside.
  static __device__ int nearest(const Rectangle& rectangle, int y, int x) {
    y = y < rectangle.top ? rectangle.top : smaller(y, rectangle.top + rectangle.height - 1);
    x = x < rectangle.left ? rectangle.left : smaller(x, rectangle.left + rectangle.width - 1);
    return rectangle.index(y, x);
  }

  // Calls visit(top, left) for the patches of a rectangle, one warp per patch.
  template <class Visit>
  static __device__ void for_patches(const Rectangle& rectangle, const Visit& visit) {
    const int across = (rectangle.width + 7) / 8;
    const int patches = (rectangle.height + 1) / 2 * across;
#pragma unroll 1
    for (int patch = static_cast<int>(threadIdx.x) / 32; patch < patches;
         patch += kAttentionTokenThreads / 32) {
      const int down = patch / across;
      visit(rectangle.top + 2 * down, rectangle.left + 8 * (patch - down * across));
    }
  }

  // The index in a rectangle of the token whose row this lane loads for MMA n of a reach.
  static __device__ int reach_index(const Rectangle& rectangle, int top, int left, int n) {
    const int i = lane() % 8;
    return nearest(rectangle, top - 1 + i / 2, left - 1 + 2 * n + i % 2);
  }

  // The weights of the lane's three columns as operands of MMA n, zero in all but two MMAs.
  struct TileWeights {
    float values[4];
  };
  static __device__ TileWeights tile_weights(const float (&weights)[2][kWindow], int n) {
    const bool odd = x() % 2 != 0;
    const int i = n - x() / 2;
    TileWeights result;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float (&w)[kWindow] = weights[h];
      const float near[2] = {odd ? 0.0f : w[0], odd ? w[0] : w[1]};
      const float far[2] = {odd ? w[1] : w[2], odd ? w[2] : 0.0f};
#pragma unroll
      for (int e = 0; e < 2; ++e)
        result.values[2 * h + e] = i == 0 ? near[e] : i == 1 ? far[e] : 0.0f;
    }
    return result;
  }

 private:
  static __device__ int smaller(int a, int b) { return a < b ? a : b; }
};

}  // namespace transnext::device
