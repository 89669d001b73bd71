// patch_embed on the CPU: the formula of transnext/patch_embed.h as a GEMM.
//
// A task computes a block of output tokens: it gathers their patches as rows, which stay in the
// second-level cache, multiplies them by all panels of the weight, and normalises the result before
// storing it. The gather copies kernel^2 C elements per token for 2 kernel^2 C columns flops: a few
// percent of the GEMM's time.
#include "transnext/patch_embed.h"

#include "cpu/gemm/gemm_rows.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/thread_pool.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kPatchBytes = 512 * 1024;  // of a block of patches

// One row per token: the elements of its patch in the weight's order, zeros outside the map.
template <class T, class R>
void gather_patch(const PatchEmbedParams& p, const T* image, index_t i, index_t j, R* row) {
  const index_t kernel = p.kernel;
  const index_t channels = p.x.shape[1];
  const index_t top = i * p.stride - kernel / 2;
  const index_t left = j * p.stride - kernel / 2;
  const index_t begin = larger(0, -left);
  const index_t end = smaller(kernel, p.x.shape[3] - left);
  const bool whole = top >= 0 && top + kernel <= p.x.shape[2] && begin == 0 && end == kernel;
  if (!whole) {
    __builtin_memset(row, 0, static_cast<unsigned long>(kernel * kernel * channels) * sizeof(R));
  }
  for (index_t dy = 0; dy < kernel; ++dy) {
    const index_t y = top + dy;
    if (y < 0 || y >= p.x.shape[2]) continue;
    const T* line = image + y * p.x.stride[2] + (left + begin) * p.x.stride[3];
    if (p.channels_last) {
      R* to = row + (dy * kernel + begin) * channels;
      if (p.x.stride[1] == 1 && p.x.stride[3] == channels) {
        load_row(line, 1, (end - begin) * channels, to);
        continue;
      }
      for (index_t dx = begin; dx < end; ++dx, line += p.x.stride[3], to += channels)
        load_row(line, p.x.stride[1], channels, to);
    } else {
      for (index_t c = 0; c < channels; ++c) {
        load_row(line + c * p.x.stride[1], p.x.stride[3], end - begin,
                 row + (c * kernel + dy) * kernel + begin);
      }
    }
  }
}

template <class E, class C>
void embed(const PatchEmbedParams& p, int threads) {
  const index_t columns = p.weight.columns;
  const index_t depth = p.weight.depth;
  const index_t tokens = p.grid.size();
  const Panels<E> panels = panels_of<E>(p.weight);
  using Left = LeftOf<E>;
  const index_t stride = product_stride<E>(depth);
  const index_t result_stride = product_stride<C>(round_up(columns, kLanes<C>));
  const index_t total = p.out.shape[0] * tokens;
  const index_t patch_bytes = stride * static_cast<index_t>(sizeof(Left));
  const RowBlocks blocks = row_blocks<E>(total, kPatchBytes / patch_bytes, threads);
  Scratch<C> norm_room(2 * columns);
  const Norm<C> norm = contiguous_norm<C>(p.norm, columns, norm_room);
  Scratch<C> bias_room(whole_panels(columns));
  const C* bias = padded_bias<C>(p.bias, 0, columns, bias_room);

  parallel_for(blocks.count(), threads, [&](index_t task) {
    const index_t first = blocks.begin(task);
    const index_t count = blocks.begin(task + 1) - first;
    const typename Product<E>::Unit unit;
    Scratch<Left> patches((count + Product<E>::kSpareRows) * stride);
    Scratch<C> row(depth);
    Scratch<C> result(count * result_stride);
    with_storage_of<E>(p.x.dtype, [&](auto element) {
      using T = decltype(element);
      for (index_t i = 0; i < count; ++i) {
        const index_t batch = (first + i) / tokens;
        const index_t token = (first + i) % tokens;
        const T* image = static_cast<const T*>(p.x.data) + batch * p.x.stride[0];
        Left* patch = &patches[i * stride];
        clear_row_end<E>(depth, patch);
        if constexpr (std::is_same_v<Left, C> || std::is_same_v<Left, T>) {
          gather_patch(p, image, token / p.grid.width, token % p.grid.width, patch);
        } else {
          gather_patch(p, image, token / p.grid.width, token % p.grid.width, row.data());
          store_row(row.data(), 1, depth, patch);
        }
      }
    });
    for (index_t panel = 0; panel < panels.count(); ++panel) {
      const index_t origin = panel * kPanelColumns;
      const index_t used = round_up(panels.used(panel), kLanes<C>);
      C* const to = &result[origin];
      product<E>(
          {patches.data(), stride}, count, panels, panel, bias + origin,
          [=](index_t i, const C* sums) { store_row(sums, 1, used, to + i * result_stride); });
    }
    with_storage_of<E>(p.out.dtype, [&](auto element) {
      using T = decltype(element);
      for (index_t i = 0; i < count; ++i) {
        if (norm.weight != nullptr) normalise_layer(norm, columns, &result[i * result_stride]);
        T* out = static_cast<T*>(p.out.data) + (first + i) / tokens * p.out.stride[0] +
                 (first + i) % tokens * p.out.stride[1];
        store_row(&result[i * result_stride], p.out.stride[2], columns, out);
      }
    });
  });
}

}  // namespace

void patch_embed(const PatchEmbedParams& params, int threads) {
  if (params.out.shape[0] == 0) return;
  with_product(params.weight.dtype, [&](auto product_type, auto compute) {
    embed<decltype(product_type), decltype(compute)>(params, larger(threads, 1));
  });
}

TRANSNEXT_END_LEVEL
