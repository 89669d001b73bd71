// Something counted, split into almost equal ranges.
#pragma once

#include "transnext/tensor.h"

namespace transnext::cpu {

// Where range `number` of `ranges` begins among `all`, and the range before it ends.
constexpr index_t range_begin(index_t number, index_t all, index_t ranges) {
  return all * number / ranges;
}

}  // namespace transnext::cpu
