// Groups of images that the two halves of a block go through at a time.
#pragma once

#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

// How many of `batches` images, [tokens, width] features of `element` bytes each, are a group: as many
// as keep what lies between the kernels of a half in the threads' second-level caches, and groups of
// the same size. Where features have the tokens' type both halves have the same groups, so that a
// thread's part of the images is the same in both.
inline index_t images_in_group(index_t batches, index_t tokens, index_t width, index_t element,
                               int threads) {
  constexpr index_t kBytes = 5 * 512 * 1024;  // for each thread
  constexpr index_t kFeatures = 5;            // of a token, in widths: attention's
  const index_t image = kFeatures * tokens * width * element;
  const index_t most = larger(1, kBytes * threads / image);
  const index_t groups = (batches - 1) / most + 1;
  return (batches - 1) / groups + 1;
}

TRANSNEXT_END_LEVEL
