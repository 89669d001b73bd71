// The softmax over pooled keys on tensor cores, float rounded to TF32: as in pooled_gemm.cuh for
// 16-bit types, with these differences.
//
// Queries are normalised, embedded and scaled before they are rounded, so the error of a logit is
// the rounding of two unit vectors. They stay in registers, and the pooled keys overwrite them in
// shared memory at once; the softmax's maximum and sum lie in shared memory instead. The weights
// that a lane holds after QK^T are its operand of PV without a shuffle: depths c and c + 4 of PV
// are the keys of columns 2 c and 2 c + 1 of QK^T.
#pragma once

#include "cuda/kernels/attention/forward/gemm_output.cuh"
#include "cuda/kernels/attention/forward/pooled.cuh"
#include "cuda/kernels/common/tensor_core.cuh"

namespace transnext::device {

template <class Tile, int kDim>
class Tf32GemmQueries : public GemmOutput<kDim> {
 public:
  using Output = GemmOutput<kDim>;
  using Output::first_of;
  using Output::key_of;
  using Output::kOut;
  using Output::kTiles;
  using Output::out;
  using Output::over_lanes;
  using Output::query_of;
  using Rows = SharedRows<float, kDim>;
  using Stream = PooledStream<Tile, TensorFloat32, kDim>;

  // Loads the queries times `factor` as operands; each thread passes its own through its row in
  // shared memory.
  __device__ void load(const Rows& rows, float (&query)[kDim], float factor) {
    const int thread = thread_index();
#pragma unroll
    for (float& value : query) value = bits_to_float(round_to_tensor_float(value * factor));
    rows.write(thread, query);
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const auto* from = rows.vector(first_of(thread, t) + thread % 16, thread % 32 / 16);
#pragma unroll
      for (int c = 0; c < kOut; ++c) ldmatrix_x4(queries_[t][c], from + 2 * c);
    }
  }

  // Accumulates a chunk of pooled keys, 8 at a time: more would need more registers than are free.
  __device__ void add_chunk(const Stream& stream, const TileBias<Tile, TensorFloat32>& bias,
                            RowTerms* row_terms) {
    const int count = stream.count();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int thread = thread_index();
      const float* biases[2];
      float offset[2];
      float sum[2];  // of this lane's keys
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const RowTerms terms = row_terms[query_of(thread, t, half)];
        biases[half] = bias.values() + terms.bias;
        offset[half] = terms.maximum;
        sum[half] = thread % 4 == 0 ? terms.sum : 0.0f;
      }
      float limit = Output::limit_of(sum[0], sum[1]);
      const Vector16<float>* keys = stream.keys().vector(key_of(thread % 8), thread % 32 / 8);
      const float* values = stream.values().vector(thread % 4, 0)->values + thread % 32 / 4;
#pragma unroll 1
      for (int key = 0; key < count; key += 8) {
        float weights[1][4] = {{0.0f, 0.0f, 0.0f, 0.0f}};
        multiply_keys(t, keys + key * kVectorsOfRow, weights[0]);
        const auto logit = [&](int half, const KeyTerms& terms, float product) {
          return product * terms.norm + terms.bias_of(biases[half]);
        };
        Output::make_exponents(count - key, stream.terms + key + thread_index() % 4, logit, offset,
                               weights);
        Output::follow(t, limit, offset, sum, weights);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[0][e] = exp2_fast(weights[0][e]);
          sum[e / 2] += weights[0][e];
        }
        multiply_values(t, weights[0], values + key * kRowFloats);
      }
      __syncwarp();  // the lanes have read the terms
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float all = over_lanes(sum[half]);
        const int writer = thread_index();
        if (writer % 4 != 0) continue;
        RowTerms& terms = row_terms[query_of(writer, t, half)];
        terms.maximum = offset[half];
        terms.sum = all;
      }
    }
  }

 private:
  static constexpr int kVectorsOfRow = Stream::Rows::kRowBytes / kVector16Bytes;
  static constexpr int kRowFloats = kVectorsOfRow * Vector16<float>::kElements;

  // sums += queries keys^T, where lanes i, i + 8, i + 16 and i + 24 load the vectors of key i.
  __device__ void multiply_keys(int t, const Vector16<float>* keys, float (&sums)[4]) const {
#pragma unroll
    for (int c = 0; c + 1 < kOut; c += 2) {
      unsigned b[4];
      ldmatrix_x4(b, keys + 2 * c);
      mma_m16n8k8(sums, queries_[t][c], {b[0], b[1]}, TensorFloat32{});
      mma_m16n8k8(sums, queries_[t][c + 1], {b[2], b[3]}, TensorFloat32{});
    }
    if constexpr (kOut % 2 != 0) {
      unsigned b[2];
      ldmatrix_x2(b, keys + 2 * (kOut - 1));
      mma_m16n8k8(sums, queries_[t][kOut - 1], b, TensorFloat32{});
    }
  }

  // out += weights values, of 8 keys.
  __device__ void multiply_values(int t, const float (&weights)[4], const float* values) {
    const unsigned a[4] = {round_to_tensor_float(weights[0]), round_to_tensor_float(weights[2]),
                           round_to_tensor_float(weights[1]), round_to_tensor_float(weights[3])};
#pragma unroll
    for (int c = 0; c < kOut; ++c) {
      mma_m16n8k8(out[t][c], a,
                  {float_to_bits(values[8 * c]), float_to_bits(values[4 * kRowFloats + 8 * c])},
                  TensorFloat32{});
    }
  }

  unsigned queries_[kTiles][kOut][4];
};

}  // namespace transnext::device
