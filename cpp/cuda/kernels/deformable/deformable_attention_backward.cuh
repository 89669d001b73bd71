// The gradients of deformable_attention on the GPU, T in float, Half, BFloat16; float arithmetic.
//
// A block computes a query, its warps heads in turn. As in the forward, lanes first place samples,
// one each, and then run along channels: each cell's product with d_out, D_c, is summed over lanes
// and left for the sample's lane, which knows all else of its gradients. A head of more than 32
// samples is read twice, first for the sum over samples that the softmax's gradient takes away.
//
// Many queries add to a cell's d_value: atomically, as floats, or as whole numbers where results
// must have the same bits each time (value_sums.cuh). Everything else is summed in one order.
//
// Bytes per d_out: 4 samples (sizeof(T) + 4) between the L2 cache and multiprocessors; 16 samples
// flops. Bound by the atomic additions in the L2 cache.
#pragma once

#include "cuda/kernels/deformable/samples.cuh"
#include "cuda/kernels/deformable/value_sums.cuh"

namespace transnext {

namespace device {

// What the lanes of a warp do for a query's head.
template <class T, bool kOrdered>
class HeadGradients {
 public:
  // reference_sums [levels, numbers]: the warp's own, or null.
  __device__ HeadGradients(const DeformableBackwardLaunch& p, const ValueSums<kOrdered>& sums,
                           const HeadPlace& at, Chunk* chunk, float* reference_sums)
      : p_(p),
        call_(p.call),
        sums_(sums),
        at_(at),
        chunk_(chunk),
        reference_sums_(reference_sums),
        warp_(call_.in.value.shape[3]),
        softmax_(at.row<const T>(call_.in.logits), call_.in.logits.stride[3], samples()),
        needs_products_(call_.d_offsets.present() || call_.d_logits.present() ||
                        reference_sums != nullptr),
        runs_(has_runs<T, kDeformableRun>(call_.in.value) &&
              has_runs<T, kDeformableRun>(call_.d_out)) {}

  __device__ void run() {
    float total = 0.0f;  // over samples, of a d_a
    const bool again = samples() > kDeformableChunk && call_.d_logits.present();
    for (int first = 0; again && first < samples(); first += kDeformableChunk) {
      const Sample sample = place(first);
      visit<false>(first);
      total += warp_sum(has_sample(first) ? sample.weight * d_weight(sample) : 0.0f);
    }
    for (int first = 0; first < samples(); first += kDeformableChunk) {
      const Sample sample = place(first);
      visit<true>(first);
      const float own = has_sample(first) ? d_weight(sample) : 0.0f;
      if (!again) total = warp_sum(has_sample(first) ? sample.weight * own : 0.0f);
      if (needs_products_) write(sample, first, own - total);
    }
  }

 private:
  __device__ int samples() const { return static_cast<int>(call_.in.logits.shape[3]); }
  __device__ int lane() const { return static_cast<int>(threadIdx.x); }
  __device__ bool has_sample(int first) const { return first + lane() < samples(); }
  __device__ int count(int first) const {
    return samples() - first < kDeformableChunk ? samples() - first : kDeformableChunk;
  }

  // The lane's sample of the chunk, in shared memory too; the last one where there is none.
  __device__ Sample place(int first) const {
    const int index = has_sample(first) ? first + lane() : samples() - 1;
    const Sample sample = Sample::place<T>(call_.in, at_, index, softmax_);
    __syncwarp();  // before the chunk is overwritten
    if (has_sample(first)) chunk_->set(lane(), sample);
    __syncwarp();
    return sample;
  }

  // Leaves D_c of the chunk's samples in its gradients; kAdds: adds to d_value.
  template <bool kAdds>
  __device__ void visit(int first) const {
    constexpr int kRun = kDeformableRun;
    const View<4>& value = call_.in.value;
    const index_t channels = value.shape[3];
    const T* cells = at_.cells<T>(value);
    const T* d_out = at_.row<const T>(call_.d_out);
    for (int begin = 0; begin < count(first); begin += warp_.parts) {
      const int i = begin + warp_.part;
      float products[kCorners] = {};
      for (index_t c = warp_.channel; i < count(first) && c < channels; c += warp_.step()) {
        RawRun<T, kRun> raw;
        raw.load(d_out + c * call_.d_out.stride[3], call_.d_out.stride[3], channels - c, runs_);
        float gradient[kRun];
        raw.read(gradient);
#pragma unroll
        for (int corner = 0; corner < kCorners; ++corner) {
          const int cell = chunk_->cells[corner][i];
          if (cell < 0) continue;
          if (needs_products_) {
            RawRun<T, kRun> raw_values;
            raw_values.load(cells + cell * value.stride[1] + c * value.stride[3], value.stride[3],
                            channels - c, runs_);
            float values[kRun];
            raw_values.read(values);
#pragma unroll
            for (int k = 0; k < kRun; ++k) products[corner] += gradient[k] * values[k];
          }
          if constexpr (kAdds) {
            if (call_.d_value.present()) add(cell, c, chunk_->shares[corner][i], gradient);
          }
        }
      }
      if (!needs_products_) continue;
      for (int distance = warp_.lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int corner = 0; corner < kCorners; ++corner)
          products[corner] += __shfl_xor_sync(0xffffffffu, products[corner], distance);
      }
      if (i < count(first) && warp_.channel == 0) {
#pragma unroll
        for (int corner = 0; corner < kCorners; ++corner)
          chunk_->gradients[corner][i] = products[corner];
      }
    }
    __syncwarp();
  }

  // Adds a share of d_out, of channels c and following, to a cell's d_value.
  __device__ void add(int cell, index_t c, float share,
                      const float (&gradient)[kDeformableRun]) const {
    if (share == 0.0f) return;
    const index_t row = at_.image * p_.stride[0] + cell * p_.stride[1] + at_.head * p_.stride[2];
#pragma unroll
    for (int k = 0; k < kDeformableRun; ++k) {
      if (c + k < call_.in.value.shape[3])
        sums_.add(row + (c + k) * p_.stride[3], share * gradient[k]);
    }
  }

  // D_c of the lane's sample, zero where there is no cell.
  __device__ float product(int corner) const { return chunk_->gradients[corner][lane()]; }
  __device__ float above(const Sample& s) const {
    return product(0) + s.x.second * (product(1) - product(0));
  }
  __device__ float below(const Sample& s) const {
    return product(2) + s.x.second * (product(3) - product(2));
  }
  __device__ float d_weight(const Sample& s) const {
    if (!needs_products_) return 0.0f;
    return above(s) + s.y.second * (below(s) - above(s));
  }

  __device__ void write(const Sample& s, int first, float d_weight_less_total) const {
    if (has_sample(first)) {
      const int index = first + lane();
      const float across = product(1) - product(0);
      const float d_x = s.weight * (across + s.y.second * (product(3) - product(2) - across));
      const float d_y = s.weight * (below(s) - above(s));
      if (call_.d_logits.present())
        from_float(s.weight * d_weight_less_total,
                   at_.row<T>(call_.d_logits)[index * call_.d_logits.stride[3]]);
      if (call_.d_offsets.present()) {
        T* to = at_.offset<T>(call_.d_offsets, index);
        from_float(d_x * s.unit_x, to[0]);
        from_float(d_y * s.unit_y, to[call_.d_offsets.stride[4]]);
      }
      if (reference_sums_ != nullptr) {  // nobody else reads or writes the lane's column
        chunk_->gradients[0][lane()] = d_x;
        chunk_->gradients[1][lane()] = d_y;
        chunk_->gradients[2][lane()] = d_x * s.offset_x;
        chunk_->gradients[3][lane()] = d_y * s.offset_y;
      }
    }
    if (reference_sums_ == nullptr) return;
    __syncwarp();
    const int points = samples() / call_.in.levels.count;
    const int numbers = static_cast<int>(call_.in.reference.shape[3]);
    for (int entry = lane(); entry < call_.in.levels.count * numbers; entry += 32) {
      const int begin = entry / numbers * points - first;
      float sum = reference_sums_[entry];
      for (int i = begin < 0 ? 0 : begin; i < begin + points && i < count(first); ++i)
        sum += chunk_->gradients[entry % numbers][i];
      reference_sums_[entry] = sum;
    }
  }

  const DeformableBackwardLaunch& p_;
  const DeformableAttentionBackwardParams& call_;
  const ValueSums<kOrdered>& sums_;
  const HeadPlace at_;
  Chunk* const chunk_;
  float* const reference_sums_;
  const WarpParts warp_;
  const HeadSoftmax softmax_;
  const bool needs_products_;
  const bool runs_;
};

}  // namespace device

// Block (32, warps). Grid: queries of all images.
template <class T, bool kOrdered>
__global__ void __launch_bounds__(kDeformableThreads, kDeformableBackwardBlocks)
    deformable_attention_backward(DeformableBackwardLaunch p) {
  __shared__ device::Chunk chunks[kDeformableWarps];
  __shared__ float reference_sums[kDeformableWarps][kMostLevels * 4];
  const DeformableInputs& in = p.call.in;
  const View<4>& d_reference = p.call.d_reference;
  const index_t queries = in.logits.shape[1];
  const int numbers = static_cast<int>(in.reference.shape[3]);
  const int entries = d_reference.present() ? in.levels.count * numbers : 0;
  float* own_sums = reference_sums[threadIdx.y];
  device::ValueSums<kOrdered> sums(p);
  if constexpr (kOrdered) {
    if (p.call.d_value.present()) sums.find_unit();
  }

  for (index_t number = blockIdx.x; number < in.logits.shape[0] * queries; number += gridDim.x) {
    const index_t image = device::quotient(number, queries);
    const index_t query = number - image * queries;
    for (int entry = static_cast<int>(threadIdx.x); entry < entries; entry += 32)
      own_sums[entry] = 0.0f;
    for (index_t head = threadIdx.y; head < in.logits.shape[2]; head += blockDim.y)
      device::HeadGradients<T, kOrdered>(p, sums, {image, query, head}, chunks + threadIdx.y,
                                         entries > 0 ? own_sums : nullptr)
          .run();
    if (entries == 0) continue;
    __syncthreads();
    for (int entry = static_cast<int>(threadIdx.y * 32 + threadIdx.x); entry < entries;
         entry += static_cast<int>(blockDim.y) * 32) {
      float sum = 0.0f;
      for (unsigned warp = 0; warp < blockDim.y; ++warp) sum += reference_sums[warp][entry];
      const int level = entry / numbers;
      const int k = entry % numbers;
      const Level size = in.levels.of[level];
      sum *= static_cast<float>(k % 2 == 0 ? size.columns : size.rows);
      if (k >= 2) sum *= device::half_of_points(in);
      static_cast<float*>(
          d_reference.data)[image * d_reference.stride[0] + query * d_reference.stride[1] +
                            level * d_reference.stride[2] + k * d_reference.stride[3]] = sum;
    }
    __syncthreads();  // before the next query overwrites the sums
  }
}

}  // namespace transnext
