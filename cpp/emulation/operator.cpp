// The kernels of one list, cuda/instances/<TRANSNEXT_OPERATOR>.inc, compiled for the host.
// TRANSNEXT_HEADER defines them.
#include <initializer_list>
#include <utility>

#include "emulation/cuda.h"
#include "emulation/kernels.h"

// clang-format off: no spaces within the names of files
#define TRANSNEXT_TEXT_OF(text) #text
#define TRANSNEXT_TEXT(text) TRANSNEXT_TEXT_OF(text)

#include TRANSNEXT_TEXT(TRANSNEXT_HEADER)

namespace transnext {
namespace {

const emulation::Registration registration{
#define TRANSNEXT_KERNEL(...) {#__VA_ARGS__, emulation::KernelOf<&__VA_ARGS__>::value},
#include TRANSNEXT_TEXT(cuda/instances/TRANSNEXT_OPERATOR.inc)
#undef TRANSNEXT_KERNEL
};

}  // namespace
}  // namespace transnext
