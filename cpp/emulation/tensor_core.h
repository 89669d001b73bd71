// mma.sync and ldmatrix, lane by lane after the PTX ISA's fragment tables (cuda/kernels/common/tensor_core.cuh
// has them in short). Products are exact; a sum is taken in double and rounded once, which a tensor
// core does not promise to the last bit.
#pragma once

#include "transnext/half.h"

namespace transnext::emulation {

// d += a b, b of `depth` rows; defined for Half and BFloat16.
template <class T>
void mma(float (&d)[4], const unsigned* a, const unsigned* b, int depth);

// The same of 8 TF32s, of whose bits the lower 13 are ignored.
void mma_tensor_float(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

void ldmatrix(unsigned* r, int matrices, const void* shared_row, bool transposed);

}  // namespace transnext::emulation
