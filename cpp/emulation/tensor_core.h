// mma.sync and ldmatrix, lane by lane after the PTX ISA's fragment tables (device/tensor_core.cuh
// has them in short). Products are exact; a sum is taken in double and rounded once, which a tensor
// core does not promise to the last bit.
#pragma once

#include "transnext/half.h"

namespace transnext::emulation {

// d += a b, b of `depth` rows; defined for Half and BFloat16.
template <class T>
void mma(float (&d)[4], const unsigned* a, const unsigned* b, int depth);

void ldmatrix(unsigned* r, int matrices, const void* shared_row, bool transposed);

}  // namespace transnext::emulation
