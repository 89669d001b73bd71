// Allocation for the kernels' temporary memory (scratch.h), compiled once for all levels.
#pragma once

#include "transnext/tensor.h"

namespace transnext::cpu {

// Aligned to a cache line, uninitialised. Throws std::bad_alloc.
void* allocate_scratch(index_t bytes);
void free_scratch(void* memory) noexcept;

}  // namespace transnext::cpu
