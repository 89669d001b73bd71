// Rectangles of tokens in the image, and the number of keys that a query sees.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/small_divisor.cuh"
#include "transnext/tensor.h"

namespace transnext::device {

struct Rectangle {
  int top, left, height, width;

  __device__ int cells() const { return height * width; }
  __device__ int index(int y, int x) const { return (y - top) * width + x - left; }
  __device__ int row(int index) const { return top + index / width; }
  // Row and column of an index below 2^21, without a division.
  struct Cell {
    int row, column;
  };
  __device__ Cell cell(int index) const {
    const int down = SmallDivisor(width).quotient(index);
    return {top + down, left + index - down * width};
  }
  __device__ int column(int index) const { return left + index % width; }

  // Grown by `before` above and on the left and by `after` below and on the right, within the
  // image.
  __device__ Rectangle grown(int before, int after, int image_height, int image_width) const {
    const int first_row = top > before ? top - before : 0;
    const int first_column = left > before ? left - before : 0;
    const int end_row = top + height + after < image_height ? top + height + after : image_height;
    const int end_column = left + width + after < image_width ? left + width + after : image_width;
    return {first_row, first_column, end_row - first_row, end_column - first_column};
  }
};

// The number of the `window` cells from x - window / 2 on that lie in 0 .. size - 1.
__device__ inline int cells_inside(int x, int window, int size) {
  const int first = x - window / 2;
  const int end = first + window;
  return (end < size ? end : size) - (first > 0 ? first : 0);
}

// log(number of keys that query (y, x) sees).
__device__ inline float length_scale(int y, int x, int window, Grid grid, int pooled) {
  const int local = cells_inside(y, window, static_cast<int>(grid.height)) *
                    cells_inside(x, window, static_cast<int>(grid.width));
  return log2_fast(static_cast<float>((window > 0 ? local : 0) + pooled)) * kLn2;
}

}  // namespace transnext::device
