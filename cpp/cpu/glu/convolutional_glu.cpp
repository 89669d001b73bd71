// convolutional_glu on the CPU. The formula is in transnext/convolutional_glu.h. Groups of images go
// through it one after the other (image_groups.h).
//
// A task walks down a tile of one image, a step of some rows at a time, and in a step from one panel
// of hidden features to the next: fc1 of the step's rows for both halves of the panel, then
// convolution and gate of the rows that now have a row below them. So the features before the gate
// come from a nearby cache, and only a panel's last two rows are kept for the next step. When all
// hidden features of these rows are known, fc2 follows. Only x and out use memory bandwidth: at stage
// 1 of TransNeXt-Tiny 0.6 kB per token instead of 8 kB.
//
// The depthwise convolution reaches one token beyond the tile, where fc1 is computed twice, once
// for each side. So tiles are as large as an even split over the threads allows. Images smaller than a
// step are taken several together, so that weights are read once for all of them. Few small images are
// split by panels instead, which computes nothing twice and reads each panel of the weights on one
// core: first rows are normalised, then come hidden features for all tokens of an image, then those
// of out. Where tiles would be thinner than kLeastRows, the three steps run one after the other,
// through memory.
#include "transnext/convolutional_glu.h"

#include "cpu/glu/glu_task.h"
#include "cpu/runtime/image_groups.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/ranges.h"
#include "cpu/runtime/thread_pool.h"
#include "transnext/conv_glu.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

constexpr index_t kLeastRows = 3;
constexpr index_t kSmallImage = 224;  // tokens
constexpr index_t kFeatureBytes = 1024 * 1024;

// Into how many parts of panels each image is split, for an even split over the threads; 1 if images
// are large, or panels too few.
index_t parts_of_panels(const ConvolutionalGluParams& p, int threads) {
  const index_t panels = (p.fc2_weight.depth - 1) / kPanelColumns + 1;
  if (p.grid.size() > kSmallImage || p.grid.width > kTileWidth) return 1;
  for (index_t parts = 1; parts <= panels; ++parts) {
    if (Tiles::even(p.x.shape[0] * parts, threads)) return parts;
  }
  return 1;
}

// How many whole images are a step together: as many as make one and whose features stay in the
// second-level cache, if the threads have evenly to do.
template <class E, class C>
index_t images_together(const ConvolutionalGluParams& p, const Tiles& tiles, int threads) {
  if (tiles.bands > 1 || tiles.columns > 1) return 1;
  const index_t tokens = p.grid.size();
  const index_t bytes = tokens * (product_stride<E>(p.x.shape[2]) + hidden_stride<E, C>(p)) *
                        static_cast<index_t>(sizeof(LeftOf<E>));
  index_t images = smaller(kStepTokens<E> / tokens, kFeatureBytes / bytes);
  images = larger(1, smaller(images, p.x.shape[0]));
  while (images > 1 && !Tiles::even((p.x.shape[0] - 1) / images + 1, threads)) --images;
  return images;
}

template <class E, class C>
void by_images(const ConvolutionalGluParams& p, const Tiles& tiles, index_t images, int threads) {
  const GluParameters<C> parameters(p);
  parallel_for((p.x.shape[0] - 1) / images + 1, threads, [&](index_t task) {
    const index_t first = task * images;
    const typename Product<E>::Unit unit;
    GluTask<E, C> glu(p, tiles, parameters, kStepTokens<E>, images);
    glu.run_images(first, smaller(images, p.x.shape[0] - first));
  });
}

template <class E, class C>
void tiled(const ConvolutionalGluParams& p, const Tiles& tiles, int threads) {
  const GluParameters<C> parameters(p);
  parallel_for(p.x.shape[0] * tiles.bands * tiles.columns, threads, [&](index_t task) {
    const index_t column = task % tiles.columns;
    const index_t band = task / tiles.columns % tiles.bands;
    const typename Product<E>::Unit unit;
    GluTask<E, C> glu(p, tiles, parameters, kStepTokens<E>);
    glu.run(task / tiles.columns / tiles.bands, band * tiles.height,
            smaller((band + 1) * tiles.height, p.grid.height), column * tiles.width,
            smaller((column + 1) * tiles.width, p.grid.width));
  });
}

// Whole images in three passes, each for all tasks of the one before: rows, panel by panel of the
// hidden features, panel by panel of out.
template <class E, class C>
void by_panels(const ConvolutionalGluParams& p, index_t parts, int threads) {
  const GluParameters<C> parameters(p);
  const Tiles whole{1, 1, p.grid.width, p.grid.height};
  const index_t normed_stride = product_stride<E>(p.x.shape[2]);
  const index_t normed_image =
      ((p.grid.height + 1) * p.grid.width + Product<E>::kSpareRows) * normed_stride;
  const index_t stride = hidden_stride<E, C>(p);
  const index_t image = (p.grid.size() + Product<E>::kSpareRows) * stride;
  Scratch<LeftOf<E>> normed(p.x.shape[0] * normed_image);
  Scratch<LeftOf<E>> hidden(p.x.shape[0] * image);
  for (index_t i = 0; i < hidden.size(); i += stride)
    clear_row_end<E>(p.fc2_weight.depth, &hidden[i]);
  const auto pass = [&](index_t all, auto&& run) {
    const index_t count = smaller(parts, all);
    parallel_for(p.x.shape[0] * count, threads, [&](index_t task) {
      const index_t batch = task / count;
      const index_t part = task % count;
      const typename Product<E>::Unit unit;
      GluTask<E, C> glu(p, whole, parameters, p.grid.size(), 1,
                        {&normed[batch * normed_image], &hidden[batch * image]});
      run(glu, batch, range_begin(part, all, count), range_begin(part + 1, all, count));
    });
  };
  pass(p.grid.height, [](GluTask<E, C>& glu, index_t batch, index_t first, index_t last) {
    glu.load_image(batch, first, last);
  });
  pass(panels_of<E>(p.value_weight).count(),
       [](GluTask<E, C>& glu, index_t batch, index_t first, index_t last) {
         glu.hide_image(batch, first, last);
       });
  pass(panels_of<E>(p.fc2_weight).count(),
       [](GluTask<E, C>& glu, index_t batch, index_t first, index_t last) {
         glu.finish_image(batch, first, last);
       });
}

// fc1, gate and fc2 one after the other, image by image.
template <class C>
void stepwise(const ConvolutionalGluParams& p, int threads) {
  const index_t tokens = p.grid.size();
  const index_t hidden = p.fc2_weight.depth;
  Scratch<C> both(tokens * 2 * hidden);
  Scratch<C> gated(tokens * hidden);
  const DType dtype = sizeof(C) == 8 ? DType::kFloat64 : DType::kFloat32;
  for (index_t batch = 0; batch < p.x.shape[0]; ++batch) {
    const View<3> x = images_of(p.x, batch, 1);
    LinearParams half;
    half.x = tokens_of(x);
    half.norm = p.norm;
    View<2> features = contiguous<2>(both.data(), dtype, {tokens, 2 * hidden});
    for (int i = 0; i < 2; ++i) {
      half.weight = i == 0 ? p.value_weight : p.gate_weight;
      half.bias = p.fc1_bias;
      if (half.bias.present()) {
        half.bias.data = static_cast<C*>(half.bias.data) + i * hidden * half.bias.stride[0];
        half.bias.shape[0] = hidden;
      }
      half.out = features;
      half.out.data = static_cast<C*>(features.data) + i * hidden;
      half.out.shape[1] = hidden;
      cpu::linear(half, threads);
    }
    ConvGluParams gate;
    gate.x = contiguous<3>(both.data(), dtype, {1, tokens, 2 * hidden});
    gate.weight = p.conv_weight;
    gate.bias = p.conv_bias;
    gate.out = contiguous<3>(gated.data(), dtype, {1, tokens, hidden});
    gate.grid = p.grid;
    cpu::conv_glu(gate, threads);
    LinearParams last;
    last.x = contiguous<2>(gated.data(), dtype, {tokens, hidden});
    last.weight = p.fc2_weight;
    last.bias = p.fc2_bias;
    last.residual = tokens_of(x);
    last.out = tokens_of(images_of(p.out, batch, 1));
    cpu::linear(last, threads);
  }
}

void group(const ConvolutionalGluParams& params, int threads) {
  const Tiles tiles = Tiles::make(params.grid, params.x.shape[0], threads);
  with_product(params.fc2_weight.dtype, [&](auto product_type, auto compute) {
    using C = decltype(compute);
    using E = decltype(product_type);
    const index_t parts = parts_of_panels(params, threads);
    if (parts > 1) return by_panels<E, C>(params, parts, threads);
    const index_t images = images_together<E, C>(params, tiles, threads);
    if (images > 1) return by_images<E, C>(params, tiles, images, threads);
    if (tiles.height < kLeastRows && tiles.bands > 1) return stepwise<C>(params, threads);
    tiled<E, C>(params, tiles, threads);
  });
}

}  // namespace

void convolutional_glu(const ConvolutionalGluParams& params, int threads) {
  const index_t batches = params.x.shape[0];
  if (batches == 0) return;
  threads = larger(threads, 1);
  const index_t images = images_in_group(batches, params.x.shape[1], params.x.shape[2],
                                         element_size(params.x.dtype), threads);
  for (index_t first = 0; first < batches; first += images) {
    ConvolutionalGluParams part = params;
    const index_t count = smaller(images, batches - first);
    part.x = images_of(params.x, first, count);
    part.out = images_of(params.out, first, count);
    group(part, threads);
  }
}

TRANSNEXT_END_LEVEL
