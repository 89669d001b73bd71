// The samples of a query's head in deformable attention: a warp places up to kDeformableChunk of
// them at a time, one per lane, and leaves their cells and shares in shared memory.
#pragma once

#include "cuda/kernels/common/math.cuh"
#include "cuda/kernels/common/runs.cuh"
#include "cuda/kernels/deformable/deformable_attention_shape.h"

namespace transnext::device {

constexpr int kCorners = 4;  // cells around a place

// The warp's lanes along channels, a power of two, and its parts, which take samples in turn.
struct WarpParts {
  int lanes;
  int parts;
  int part;
  int channel;  // this thread's first

  __device__ explicit WarpParts(index_t channels) : lanes(1) {
    while (lanes < 32 && index_t{lanes} * kDeformableRun < channels) lanes *= 2;
    parts = 32 / lanes;
    part = static_cast<int>(threadIdx.x) / lanes;
    channel = static_cast<int>(threadIdx.x) % lanes * kDeformableRun;
  }
  __device__ int step() const { return lanes * kDeformableRun; }
};

// Which query's head: where its tensors' rows begin.
struct HeadPlace {
  index_t image;
  index_t query;
  index_t head;

  template <class T>
  __device__ T* row(const View<4>& view) const {
    return static_cast<T*>(view.data) + image * view.stride[0] + query * view.stride[1] +
           head * view.stride[2];
  }
  template <class T>
  __device__ T* offset(const View<5>& view, int sample) const {
    return static_cast<T*>(view.data) + image * view.stride[0] + query * view.stride[1] +
           head * view.stride[2] + sample * view.stride[3];
  }
  // A head's cells.
  template <class T>
  __device__ const T* cells(const View<4>& view) const {
    return static_cast<const T*>(view.data) + image * view.stride[0] + head * view.stride[2];
  }
};

// What makes weights of a head's logits; all lanes of a warp take part.
struct HeadSoftmax {
  float largest;
  float inverse;  // of the sum

  template <class T>
  __device__ HeadSoftmax(const T* logits, index_t stride, int samples) {
    largest = to_float(logits[0]);
    for (int i = static_cast<int>(threadIdx.x); i < samples; i += 32)
      largest = fmaxf(largest, to_float(logits[i * stride]));
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < samples; i += 32)
      sum += exp_fast(to_float(logits[i * stride]) - largest);
    inverse = 1.0f / warp_sum(sum);
  }
};

// The two cells that a coordinate lies between, along one axis of `size` cells: the second one's
// share, and which of them exist. Coordinates are moved to -1 .. size, where neither has a share;
// so are those that are no numbers.
struct Between {
  float second;
  int cell;  // the first
  bool has_first;
  bool has_second;

  __device__ Between(float coordinate, int size) {
    const float border = fminf(fmaxf(coordinate, -1.0f), static_cast<float>(size)) + 1.0f;
    const int whole = static_cast<int>(border);
    second = border - static_cast<float>(whole);
    cell = whole - 1;
    has_first = cell >= 0 && cell < size;
    has_second = whole < size && coordinate >= -1.0f;
  }
};

// The share of a box's sides that its offsets count.
__device__ inline float half_of_points(const DeformableInputs& in) {
  return 0.5f / static_cast<float>(static_cast<int>(in.logits.shape[3]) / in.levels.count);
}

// One sample: what its offset counts, its weight, and where it lies.
struct Sample {
  float unit_x;
  float unit_y;
  float offset_x;
  float offset_y;
  float weight;
  int width;
  int first;  // cell of its level
  Between x;
  Between y;

  template <class T>
  static __device__ Sample place(const DeformableInputs& in, const HeadPlace& at, int index,
                                 const HeadSoftmax& softmax) {
    const int points = static_cast<int>(in.logits.shape[3]) / in.levels.count;
    const int level = index / points;
    const Level size = in.levels.of[level];
    const View<4>& view = in.reference;
    const float* reference = static_cast<const float*>(view.data) + at.image * view.stride[0] +
                             at.query * view.stride[1] + level * view.stride[2];
    const T* offset = at.offset<const T>(in.offsets, index);
    const float offset_x = to_float(offset[0]);
    const float offset_y = to_float(offset[in.offsets.stride[4]]);
    const float columns = static_cast<float>(size.columns);
    const float rows = static_cast<float>(size.rows);
    float unit_x = 1.0f;
    float unit_y = 1.0f;
    if (view.shape[3] == 4) {
      const float half = half_of_points(in);
      unit_x = half * reference[2 * view.stride[3]] * columns;
      unit_y = half * reference[3 * view.stride[3]] * rows;
    }
    const float logit = to_float(at.row<const T>(in.logits)[index * in.logits.stride[3]]);
    return {unit_x,
            unit_y,
            offset_x,
            offset_y,
            exp_fast(logit - softmax.largest) * softmax.inverse,
            size.columns,
            size.first,
            Between(reference[0] * columns - 0.5f + unit_x * offset_x, size.columns),
            Between(reference[view.stride[3]] * rows - 0.5f + unit_y * offset_y, size.rows)};
  }
};

// What a warp's lanes know of a chunk of samples.
struct Chunk {
  float shares[kCorners][kDeformableChunk];  // weight and bilinear share
  int cells[kCorners][kDeformableChunk];     // -1 where there is none
  float gradients[kCorners][kDeformableChunk];

  __device__ void set(int slot, const Sample& sample) {
    const float below = sample.weight * sample.y.second;
    const float above = sample.weight - below;
    shares[1][slot] = above * sample.x.second;
    shares[0][slot] = above - above * sample.x.second;
    shares[3][slot] = below * sample.x.second;
    shares[2][slot] = below - below * sample.x.second;
    const int cell = sample.first + sample.y.cell * sample.width + sample.x.cell;
    cells[0][slot] = sample.y.has_first && sample.x.has_first ? cell : -1;
    cells[1][slot] = sample.y.has_first && sample.x.has_second ? cell + 1 : -1;
    cells[2][slot] = sample.y.has_second && sample.x.has_first ? cell + sample.width : -1;
    cells[3][slot] = sample.y.has_second && sample.x.has_second ? cell + sample.width + 1 : -1;
  }
};

}  // namespace transnext::device
