// The patches of a 3 x 3 window on tensor cores, and which tokens a lane holds of them
// (cuda/kernels/attention/window_columns.cuh). A lane's tokens of the patch are in column x of it,
// one in each row (half). Of the reach it holds the tokens in row y and columns x, x + 1, x + 2:
// window row y of half 0 and window row y - 1 of half 1, three cells of each.
#pragma once

#include "cuda/kernels/attention/backward/shape.h"
#include "cuda/kernels/attention/window_columns.cuh"
#include "cuda/kernels/common/rectangle.cuh"

namespace transnext::device {

class WindowPatch {
 protected:
  static constexpr int kWindow = WindowColumns::kWindow;
  static constexpr int kCells = kWindow * kWindow;
  static constexpr int kReachTiles = WindowColumns::kReachTiles;

  static __device__ int x() { return static_cast<int>(threadIdx.x % 32 / 4); }
  static __device__ int y() { return static_cast<int>(threadIdx.x % 4); }
  static __device__ int group() { return static_cast<int>(threadIdx.x % 32 / 8); }

  static __device__ bool within(const Rectangle& rectangle, int y, int x) {
    return y < rectangle.top + rectangle.height && x < rectangle.left + rectangle.width;
  }

  // Tokens of one row of the image in a rectangle, or the nearest ones inside it.
  struct Row {
    int begin;       // index of its first token
    int left, last;  // columns: the rectangle's first, and the last within it
    bool inside;     // the row itself lies in the rectangle

    __device__ Row(const Rectangle& rectangle, int y)
        : left(rectangle.left), last(rectangle.width - 1) {
      const int down = y - rectangle.top;
      inside = static_cast<unsigned>(down) < static_cast<unsigned>(rectangle.height);
      begin = bounded(down, rectangle.height - 1) * rectangle.width;
    }
    __device__ int index(int x) const { return begin + bounded(x - left, last); }
    __device__ bool contains(int x) const {
      return inside && static_cast<unsigned>(x - left) <= static_cast<unsigned>(last);
    }
  };

  // The index in a rectangle of a token, or of the nearest token inside.
  static __device__ int nearest(const Rectangle& rectangle, int y, int x) {
    return Row(rectangle, y).index(x);
  }

  // Calls visit(top, left) for the patches of a rectangle, one warp per patch.
  template <class Visit>
  static __device__ void for_patches(const Rectangle& rectangle, const Visit& visit) {
    const int across = (rectangle.width + 7) / 8;
    const int patches = (rectangle.height + 1) / 2 * across;
#pragma unroll 1
    for (int patch = static_cast<int>(threadIdx.x / 32); patch < patches;
         patch += kAttentionTokenThreads / 32) {
      const int down = patch / across;
      visit(rectangle.top + 2 * down, rectangle.left + 8 * (patch - down * across));
    }
  }

  // The index in a rectangle of the token of a patch whose row this lane loads as a left operand.
  static __device__ int own_index(const Rectangle& rectangle, int top, int left) {
    return nearest(rectangle, top + group() % 2, left + static_cast<int>(threadIdx.x % 8));
  }

  // The tokens of a patch's reach whose rows this lane loads as right operands.
  struct Reach {
    Row row;
    int column;

    __device__ Reach(const Rectangle& rectangle, int top, int left)
        : row(rectangle, top - 1 + static_cast<int>(threadIdx.x % 8 / 2)),
          column(left - 1 + static_cast<int>(threadIdx.x % 2)) {}
    // For MMA n.
    __device__ int index(int n) const { return row.index(column + 2 * n); }
    // For MMAs n and n + 1, of depth 8 each: lanes 8 to 15 load the second one's.
    __device__ int index_of_two(int n) const {
      return row.index(column + 2 * (n + (n + 1 < kReachTiles ? group() % 2 : 0)));
    }
  };

 private:
  static __device__ int bounded(int i, int last) { return min(max(i, 0), last); }
};

}  // namespace transnext::device
