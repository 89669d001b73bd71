// The entry points that composed kernels call, for a level on its own: its own kernels, where
// dispatch.cpp chooses among levels.
#include "cpu/runtime/kernels.h"

namespace transnext::cpu {

#define TRANSNEXT_ENTRY_POINT(function, Params)      \
  void function(const Params& params, int threads) { \
    TRANSNEXT_CPU_LEVEL::function(params, threads);  \
  }
TRANSNEXT_FOR_EACH_CPU_KERNEL(TRANSNEXT_ENTRY_POINT)
#undef TRANSNEXT_ENTRY_POINT

}  // namespace transnext::cpu
