// Runs deformable attention, forward and backward, for run_kernels.cpp.
#pragma once

#include "tests/case.h"
#include "tests/level.h"
#include "tests/sizes.h"

namespace transnext::tests {

inline void run_deformable(Case& c, const Sizes& s, int threads) {
  const index_t samples = 6;  // three on each of two levels, which have the sizes of the grids
  const index_t queries = s.grid.size();
  const index_t numbers = s.window % 2 == 0 ? 2 : 4;
  DeformableAttentionParams p;
  p.in.value = c.activation({s.batch, queries + s.pool.size(), s.heads, s.channels});
  p.in.offsets = c.activation({s.batch, queries, s.heads, samples, 2});
  p.in.logits = c.activation({s.batch, queries, s.heads, samples});
  p.in.reference = c.parameter({s.batch, queries, 2, numbers});
  p.in.levels.count = 2;
  p.in.levels.of[0] = {static_cast<int>(s.grid.height), static_cast<int>(s.grid.width), 0};
  p.in.levels.of[1] = {static_cast<int>(s.pool.height), static_cast<int>(s.pool.width),
                       static_cast<int>(queries)};
  p.out = c.result({s.batch, queries, s.heads, s.channels});
  level::deformable_attention(p, threads);

  DeformableAttentionBackwardParams backward;
  backward.in = p.in;
  backward.d_out = c.activation({s.batch, queries, s.heads, s.channels});
  backward.d_value = c.result({s.batch, queries + s.pool.size(), s.heads, s.channels});
  backward.d_offsets = c.result({s.batch, queries, s.heads, samples, 2});
  backward.d_logits = c.result({s.batch, queries, s.heads, samples});
  backward.d_reference = c.parameter_result({s.batch, queries, 2, numbers});
  level::deformable_attention_backward(backward, threads);
}

}  // namespace transnext::tests
