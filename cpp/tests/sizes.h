// The sizes of a call of run_kernels.cpp.
#pragma once

#include "tests/case.h"

namespace transnext::tests {

struct Sizes {
  index_t batch;
  Grid grid;
  Grid pool;
  index_t heads;
  index_t channels;
  index_t window;
};

}  // namespace transnext::tests
