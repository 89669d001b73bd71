// The inner loops of the packed GEMM (packed_gemm.h).
//
// A tile of kTileRows rows by kTileVectors vectors keeps its sums in registers over the whole
// depth: per step of k, kTileRows broadcasts and kTileVectors loads feed kTileRows * kTileVectors
// multiply-adds (AVX-512: 24 for 11 loads), so the loop is bound by arithmetic if the panel, depth
// * 192 bytes, comes from the second-level cache in time. With AVX-512, where each vector is a cache
// line, the tiles prefetch it from there. On 64-bit Arm a multiply-add takes its left factor from any
// lane of a vector, so that one load brings several steps of a row (72 for 18 loads). The tile's sums
// pass through memory to the kernel that finishes them: one store and one load for `depth`
// multiply-adds. So the tiles, which take longest to compile, are compiled once for every kernel.
//
// The loops over a tile are unrolled by name: left to itself, GCC 12 does that too late to keep
// their sums out of memory before and after the loop over k.
#include "cpu/gemm/packed_gemm.h"

#include "cpu/gemm/matrix_gemm.h"
#include "cpu/gemm/tile_gemm.h"
#include "cpu/runtime/storage.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

TRANSNEXT_BEGIN_LEVEL

namespace {

// A step of k: kProducts products of vectors with broadcast elements of the rows.
template <class E>
struct Step {
  static constexpr int kProducts = 1;
  static Vector<E> left(const E* a) { return broadcast<E>(*a); }
  static Vector<E> right(const E* b, int) { return load<Vector<E>>(b); }
  static void add(Vector<E>& sum, Vector<E> a, Vector<E> b) { sum += a * b; }
};

#if defined(__AVX512BF16__)
template <>
struct Step<BFloat16> {
  static constexpr int kProducts = 1;
  static Vector<float> left(const BFloat16* a) {
    unsigned pair;
    __builtin_memcpy(&pair, a, sizeof(pair));
    return reinterpret_cast<Vector<float>>(Bits{} + pair);
  }
  static Vector<float> right(const BFloat16* b, int) { return load<Vector<float>>(b); }
  static void add(Vector<float>& sum, Vector<float> a, Vector<float> b) {
    sum = reinterpret_cast<Vector<float>>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                           reinterpret_cast<__m512bh>(a),
                                                           reinterpret_cast<__m512bh>(b)));
  }
};
#else
#if defined(__AVX2__) && !defined(__AVX512F__)
// A tile's sums, a step's columns and an element of a row fill all 16 registers. So the mask of upper halves
// is read anew for every use, and every sum is back in its register after every product: GCC 12 kept the mask
// in one, two sums in memory, and took twice the time.
const volatile Bits kUpperHalves = Bits{} + 0xffff0000u;
inline void keep_in_register(Vector<float>& sum) {
  asm("" : "+x"(sum));
}
#else
constexpr unsigned kUpperHalves = 0xffff0000u;
inline void keep_in_register(Vector<float>&) {}
#endif

template <>
struct Step<BFloat16> {
  static constexpr int kProducts = 2;
  static Vector<float> left(const float* a) { return broadcast<float>(*a); }
  static Vector<float> right(const BFloat16* b, int product) {
    const Bits pairs = load<Bits>(b);
    return reinterpret_cast<Vector<float>>(product == 0 ? pairs << 16 : pairs & kUpperHalves);
  }
  static void add(Vector<float>& sum, Vector<float> a, Vector<float> b) {
    sum += a * b;
    keep_in_register(sum);
  }
};
#endif

#if defined(__aarch64__)
// Adds the products with the kLanes elements of each row from `left[r] + k` on, which one load
// reads: a multiply-add takes its left factor from any lane of a vector.
template <int kRows, int kVectors, class E, class C>
__attribute__((always_inline)) inline void add_lanes(const LeftOf<E>* const (&left)[kRows],
                                                     index_t k, const E* b,
                                                     Vector<C> (&sum)[kRows][kVectors]) {
  constexpr int kStep = Product<E>::kStep;
  Vector<C> rows[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) rows[r] = load<Vector<C>>(left[r] + k);
#pragma GCC unroll 4
  for (int lane = 0; lane < kLanes<C>; lane += Step<E>::kProducts, b += kPanelColumns * kStep) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
      for (int product = 0; product < Step<E>::kProducts; ++product) {
        const Vector<C> right = Step<E>::right(b + v * kLanes<C> * kStep, product);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r][v] += rows[r][lane + product] * right;
      }
    }
  }
}
#endif

// Steps of k from a vector of a panel to the one that is prefetched while it is multiplied; 0 for
// none. Behind the panel's last step lies the next panel, or nothing, which no prefetch minds
// (measured: docs/notes/2026-12-01-float32-panels.md).
#if defined(__AVX512F__)
constexpr index_t kStepsAhead = 12;
#else
constexpr index_t kStepsAhead = 0;
#endif

template <int kRows, int kVectors, class E, class C>
void multiply_tile(const LeftRows<E>& a, index_t row, const E* b, index_t steps, const C* start,
                   C* sums) {
  constexpr int kStep = Product<E>::kStep;
  Vector<C> sum[kRows][kVectors];
  const LeftOf<E>* left[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    left[r] = a.data + (row + r) * a.stride;
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load<Vector<C>>(start + v * kLanes<C>);
  }
  index_t k = 0;
#if defined(__aarch64__)
  constexpr int kTogether = kLanes<C> / Step<E>::kProducts;
  for (; k + kTogether <= steps; k += kTogether)
    add_lanes<kRows, kVectors, E, C>(left, k * kStep, b + k * kPanelColumns * kStep, sum);
#endif
  for (; k < steps; ++k) {
#pragma GCC unroll 2
    for (int product = 0; product < Step<E>::kProducts; ++product) {
      Vector<C> right[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        const E* columns = b + (k * kPanelColumns + v * kLanes<C>)*kStep;
        right[v] = Step<E>::right(columns, product);
        if (kStepsAhead > 0 && product == 0)
          __builtin_prefetch(columns + kStepsAhead * kPanelColumns * kStep);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vector<C> x = Step<E>::left(left[r] + k * kStep + product);
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) Step<E>::add(sum[r][v], x, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v)
      store(sums + (row + r) * kPanelColumns + v * kLanes<C>, sum[r][v]);
  }
}

// Multiplies all rows by a tile's columns, in tiles of kRows rows, then of half as many for the
// rest.
template <int kRows, int kVectors, class E, class C>
void multiply_rows(const LeftRows<E>& a, index_t row, index_t rows, const E* b, index_t steps,
                   const C* start, C* sums) {
  for (; row + kRows <= rows; row += kRows)
    multiply_tile<kRows, kVectors>(a, row, b, steps, start, sums);
  if constexpr (kRows > 1) {
    if (row < rows) multiply_rows<kRows / 2, kVectors>(a, row, rows, b, steps, start, sums);
  }
}

template <int kVectors, class E, class C>
void multiply_columns(int vectors, const LeftRows<E>& a, index_t rows, const E* b, index_t steps,
                      const C* start, C* sums) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors)
      return multiply_columns<kVectors - 1>(vectors, a, rows, b, steps, start, sums);
  }
  multiply_rows<kTileRows, kVectors>(a, 0, rows, b, steps, start, sums);
}

template <class E, class C>
void multiply(const LeftRows<E>& a, index_t rows, const Panels<E>& panels, index_t panel,
              const C* start, C* sums) {
  constexpr index_t kTileColumns = kTileVectors * kLanes<C>;
  const index_t columns = panels.used(panel);
  for (index_t column = 0; column < columns; column += kTileColumns) {
    const index_t left = smaller(kTileColumns, columns - column);
    const int vectors = static_cast<int>((left + kLanes<C> - 1) / kLanes<C>);
    multiply_columns<kTileVectors>(vectors, a, rows, panels.at(panel, column), panels.steps(),
                                   start + column, sums + column);
  }
}

}  // namespace

void multiply_panel(const LeftRows<float>& a, index_t rows, const Panels<float>& panels,
                    index_t panel, const float* start, float* sums, const Ahead&) {
  if constexpr (kHasFloat32) multiply(a, rows, panels, panel, start, sums);
}
void multiply_panel(const LeftRows<double>& a, index_t rows, const Panels<double>& panels,
                    index_t panel, const double* start, double* sums, const Ahead&) {
  if constexpr (kHasFloat64) multiply(a, rows, panels, panel, start, sums);
}
void multiply_panel(const LeftRows<BFloat16>& a, index_t rows, const Panels<BFloat16>& panels,
                    index_t panel, const float* start, float* sums,
                    [[maybe_unused]] const Ahead& ahead) {
#if defined(TRANSNEXT_TILES)
  multiply_in_tiles(a, rows, panels, panel, start, sums, ahead);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  multiply_in_matrices(a, rows, panels, panel, start, sums);
#else
  multiply(a, rows, panels, panel, start, sums);
#endif
}
#if defined(TRANSNEXT_TILES)
void multiply_panel(const LeftRows<SplitFloat>& a, index_t rows, const Panels<SplitFloat>& panels,
                    index_t panel, const float* start, float* sums, const Ahead& ahead) {
  multiply_in_tiles(a, rows, panels, panel, start, sums, ahead);
}
#endif

TRANSNEXT_END_LEVEL
