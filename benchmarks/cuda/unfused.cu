// Aggregated attention as a sequence of straightforward kernels, one thread for each output: what the
// fused kernel's executed instructions are compared with (instructions.py). T is the storage type.
//
//   window logits -> pooled logits -> concatenate -> softmax -> window values -> + pooled values
//
// Queries are normalised and scaled before, keys normalised: those products are left out here, in the
// sequence's favour. All tensors are contiguous; images and heads are folded into `maps`.
#include "cuda/kernels/common/storage.cuh"

namespace transnext::unfused {

__device__ inline long long thread_index() {
  return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// logits[maps, N, L] = q . k(n + offset) + bias, -infinity outside the image
template <class T>
__global__ void window_qk(const T* q, const T* k, const float* bias, T* logits, int maps,
                          int height, int width, int window, int head_dim) {
  const int cells = window * window;
  const int length = height * width;
  const long long i = thread_index();
  if (i >= static_cast<long long>(maps) * length * cells) return;
  const int cell = static_cast<int>(i % cells);
  const int n = static_cast<int>(i / cells % length);
  const int map = static_cast<int>(i / cells / length);
  const int row = n / width + cell / window - window / 2;
  const int column = n % width + cell % window - window / 2;
  float sum = -INFINITY;
  if (row >= 0 && row < height && column >= 0 && column < width) {
    const T* query = q + (static_cast<long long>(map) * length + n) * head_dim;
    const T* key = k + (static_cast<long long>(map) * length + row * width + column) * head_dim;
    sum = bias[cell];
    for (int c = 0; c < head_dim; ++c) sum += to_float(query[c]) * to_float(key[c]);
  }
  from_float(sum, logits[i]);
}

// logits[maps, N, P] = q . k_pool + bias[N, P]
template <class T>
__global__ void pooled_qk(const T* q, const T* k_pool, const float* bias, T* logits, int maps,
                          int length, int pooled, int head_dim) {
  const long long i = thread_index();
  if (i >= static_cast<long long>(maps) * length * pooled) return;
  const int m = static_cast<int>(i % pooled);
  const int n = static_cast<int>(i / pooled % length);
  const int map = static_cast<int>(i / pooled / length);
  const T* query = q + (static_cast<long long>(map) * length + n) * head_dim;
  const T* key = k_pool + (static_cast<long long>(map) * pooled + m) * head_dim;
  float sum = bias[n * pooled + m];
  for (int c = 0; c < head_dim; ++c) sum += to_float(query[c]) * to_float(key[c]);
  from_float(sum, logits[i]);
}

// joined[maps N, L + P]
template <class T>
__global__ void concatenate(const T* local, const T* pooled, T* joined, int rows, int cells,
                            int pooled_length) {
  const int columns = cells + pooled_length;
  const long long i = thread_index();
  if (i >= static_cast<long long>(rows) * columns) return;
  const int column = static_cast<int>(i % columns);
  const long long row = i / columns;
  joined[i] =
      column < cells ? local[row * cells + column] : pooled[row * pooled_length + column - cells];
}

// One thread for each row: an output's own thread would take the row's maximum and sum again.
template <class T>
__global__ void softmax(T* logits, int rows, int columns) {
  const long long i = thread_index();
  if (i >= rows) return;
  T* row = logits + i * columns;
  float most = -INFINITY;
  for (int j = 0; j < columns; ++j) most = fmaxf(most, to_float(row[j]));
  float sum = 0.0f;
  for (int j = 0; j < columns; ++j) sum += expf(to_float(row[j]) - most);
  for (int j = 0; j < columns; ++j) from_float(expf(to_float(row[j]) - most) / sum, row[j]);
}

// out[maps, N, d] = sum over the window of attention times v, the attention's rows L + P apart
template <class T>
__global__ void window_av(const T* attention, const T* v, T* out, int maps, int height, int width,
                          int window, int head_dim, int row_stride) {
  const int length = height * width;
  const long long i = thread_index();
  if (i >= static_cast<long long>(maps) * length * head_dim) return;
  const int c = static_cast<int>(i % head_dim);
  const int n = static_cast<int>(i / head_dim % length);
  const long long map = i / head_dim / length;
  const T* weights = attention + (map * length + n) * row_stride;
  float sum = 0.0f;
  for (int cell = 0; cell < window * window; ++cell) {
    const int row = n / width + cell / window - window / 2;
    const int column = n % width + cell % window - window / 2;
    if (row < 0 || row >= height || column < 0 || column >= width) continue;
    sum +=
        to_float(weights[cell]) * to_float(v[(map * length + row * width + column) * head_dim + c]);
  }
  from_float(sum, out[i]);
}

// out[maps, N, d] += sum over pooled tokens of attention times v_pool
template <class T>
__global__ void pooled_av(const T* attention, const T* v_pool, T* out, int maps, int length,
                          int pooled, int head_dim, int row_stride, int cells) {
  const long long i = thread_index();
  if (i >= static_cast<long long>(maps) * length * head_dim) return;
  const int c = static_cast<int>(i % head_dim);
  const int n = static_cast<int>(i / head_dim % length);
  const long long map = i / head_dim / length;
  const T* weights = attention + (map * length + n) * row_stride + cells;
  float sum = to_float(out[i]);
  for (int m = 0; m < pooled; ++m)
    sum += to_float(weights[m]) * to_float(v_pool[(map * pooled + m) * head_dim + c]);
  from_float(sum, out[i]);
}

#define TRANSNEXT_INSTANCES(T)                                                                     \
  template __global__ void window_qk<T>(const T*, const T*, const float*, T*, int, int, int, int,  \
                                        int);                                                      \
  template __global__ void pooled_qk<T>(const T*, const T*, const float*, T*, int, int, int, int); \
  template __global__ void concatenate<T>(const T*, const T*, T*, int, int, int);                  \
  template __global__ void softmax<T>(T*, int, int);                                               \
  template __global__ void window_av<T>(const T*, const T*, T*, int, int, int, int, int, int);     \
  template __global__ void pooled_av<T>(const T*, const T*, T*, int, int, int, int, int, int);
TRANSNEXT_INSTANCES(float)
TRANSNEXT_INSTANCES(Half)
TRANSNEXT_INSTANCES(BFloat16)

}  // namespace transnext::unfused
