// mma.sync and ldmatrix, lane by lane according to the PTX ISA's fragment tables (summarised in
// cuda/kernels/common/tensor_core.cuh). Products are exact; a sum is computed in double and rounded
// once, where a tensor core may differ in the last bit.
#pragma once

#include "transnext/half.h"

namespace transnext::emulation {

// d += a b, b of `depth` rows; defined for Half and BFloat16.
template <class T>
void mma(float (&d)[4], const unsigned* a, const unsigned* b, int depth);

// The same for depth 8 of TF32, whose lower 13 bits are ignored.
void mma_tensor_float(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

void ldmatrix(unsigned* r, int matrices, const void* shared_row, bool transposed);

}  // namespace transnext::emulation
