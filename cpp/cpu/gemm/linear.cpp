// linear and pack_weight on the CPU. The formulas are in transnext/linear.h, the inner loop in
// packed_gemm.h.
//
// A task loads and normalises a block of rows, small enough to stay in the second-level cache, and
// multiplies it by all panels or some of them; a panel is read once per block. With m rows in the
// block that is m / 2 flops per byte of the weight: 96 rows need 2.3 GB/s of weight at 110 GFLOP/s,
// so weights may come from the third-level cache or from memory.
#include "transnext/linear.h"

#include "cpu/gemm/gemm_rows.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kBlockBytes = 192 * 1024;  // of a block of rows: part of an L2 cache
constexpr index_t kTasksPerThread = 3;       // keeps uneven cores busy until the end

// Puts an element of a weight where the panel has it.
template <class E, class C>
inline void pack_element(C value, index_t k, index_t column, E* panel) {
  constexpr index_t kStep = Product<E>::kStep;
  convert_from(value, panel + (k / kStep * kPanelColumns + column) * kStep + k % kStep);
}
#if defined(TRANSNEXT_TILES)
inline void pack_element(float value, index_t k, index_t column, SplitFloat* panel) {
  const index_t block = k / kTileDepth * kTileDepth;
  auto* high = reinterpret_cast<BFloat16*>(panel + block * kPanelColumns) +
               ((k - block) / 2 * kPanelColumns + column) * 2 + k % 2;
  *high = float_to_bfloat16(value);
  high[kTileDepth * kPanelColumns] = float_to_bfloat16(value - bfloat16_to_float(*high));
}
#endif

template <class E, class C>
void pack(const PackWeightParams& p, int threads) {
  const index_t columns = p.weight.shape[0];
  const index_t depth = p.weight.shape[1];
  const Panels<E> panels = Panels<E>::of(p.packed.data, p.packed.dtype, columns, depth);
  parallel_for(panels.count(), threads, [&](index_t panel) {
    E* packed = static_cast<E*>(p.packed.data) + panel * panels.size;
    const index_t first = panel * kPanelColumns;
    const index_t used = panels.used(panel);
    if (used < kPanelColumns || panels.size > depth * kPanelColumns)
      __builtin_memset(static_cast<void*>(packed), 0,
                       static_cast<unsigned long>(panels.size) * sizeof(E));
    with_storage_of<E>(p.weight.dtype, [&](auto element) {
      using T = decltype(element);
      const T* weight = static_cast<const T*>(p.weight.data) + first * p.weight.stride[0];
      for (index_t k = 0; k < depth; ++k) {
        const T* from = weight + k * p.weight.stride[1];
        for (index_t column = 0; column < used; ++column)
          pack_element(convert_to<C>(from[column * p.weight.stride[0]]), k, column, packed);
      }
    });
  });
}

// Into how many parts the panels are split, each a task of every block of rows. The tile unit multiplies
// faster than rows are loaded, so that there panels are split only where rows are too few.
template <class E>
index_t panel_parts(const RowBlocks& blocks, index_t panels, int threads) {
  const index_t tasks = threads == 1 || kOnTileUnit<E> ? threads : threads * kTasksPerThread;
  return smaller(panels, (tasks - 1) / blocks.count() + 1);
}

template <class E, class C>
void multiply(const LinearParams& p, int threads) {
  const index_t rows = p.out.shape[0];
  const index_t columns = p.weight.columns;
  const index_t depth = p.weight.depth;
  const Panels<E> panels = panels_of<E>(p.weight);
  using Left = LeftOf<E>;
  const index_t stride = product_stride<E>(depth);
  const index_t row_bytes = stride * static_cast<index_t>(sizeof(Left));
  const RowBlocks blocks = row_blocks<E>(rows, kBlockBytes / row_bytes, threads);
  const index_t parts = panel_parts<E>(blocks, panels.count(), threads);
  Scratch<C> norm_room(p.norm.weight.present() ? 2 * depth : 0);
  const Norm<C> norm = contiguous_norm<C>(p.norm, depth, norm_room);
  Scratch<C> bias_room(whole_panels(columns));
  const C* bias = padded_bias<C>(p.bias, 0, columns, bias_room);

  with_storage_of<E>(p.out.dtype, [&](auto element) {
    using T = decltype(element);
    parallel_for(blocks.count() * parts, threads, [&](index_t task) {
      const index_t first = blocks.begin(task / parts);
      const index_t count = blocks.begin(task / parts + 1) - first;
      const index_t begin = range_begin(task % parts, panels.count(), parts);
      const index_t end = range_begin(task % parts + 1, panels.count(), parts);
      const typename Product<E>::Unit unit;
      Scratch<Left> left((count + Product<E>::kSpareRows) * stride);
      Scratch<C> row(depth);
      load_product_rows<E, C>(p.x, first, count, norm, row.data(), left.data(), stride);
      // By value below: stores of 16-bit elements may change anything that a pointer leads to.
      T* const out = static_cast<T*>(p.out.data) + first * p.out.stride[0];
      const T* residual = static_cast<const T*>(p.residual.data);
      if (residual != nullptr) residual += first * p.residual.stride[0];
      const index_t out_row = p.out.stride[0];
      const index_t out_column = p.out.stride[1];
      const index_t residual_row = p.residual.stride[0];
      const index_t residual_column = p.residual.stride[1];
      for (index_t panel = begin; panel < end; ++panel) {
        const index_t origin = panel * kPanelColumns;
        const index_t used = panels.used(panel);
        T* const to = out + origin * out_column;
        product<E>({left.data(), stride}, count, panels, panel, bias + origin,
                   [=](index_t i, const C* sums) {
                     const T* row = nullptr;
                     if (residual != nullptr)
                       row = residual + i * residual_row + origin * residual_column;
                     store_sums(sums, used, row, residual_column, to + i * out_row, out_column);
                   });
      }
    });
  });
}

}  // namespace

void pack_weight(const PackWeightParams& params, int threads) {
  with_product(params.packed.dtype, [&](auto product_type, auto compute) {
    pack<decltype(product_type), decltype(compute)>(params, threads);
  });
}

void linear(const LinearParams& params, int threads) {
  if (params.out.shape[0] == 0 || params.out.shape[1] == 0) return;
  with_product(params.weight.dtype, [&](auto product_type, auto compute) {
    multiply<decltype(product_type), decltype(compute)>(params, larger(threads, 1));
  });
}

TRANSNEXT_END_LEVEL
