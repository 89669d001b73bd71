// The kernels of one operator, compiled for the host. TRANSNEXT_OPERATOR is its name: the kernels
// are those of device/<name>.cuh that device/kernels/<name>.inc lists.
#include <initializer_list>
#include <utility>

#include "emulation/cuda.h"
#include "emulation/kernels.h"

// clang-format off: no spaces within the names of files
#define TRANSNEXT_TEXT_OF(text) #text
#define TRANSNEXT_TEXT(text) TRANSNEXT_TEXT_OF(text)

#include TRANSNEXT_TEXT(device/TRANSNEXT_OPERATOR.cuh)

namespace transnext {
namespace {

const emulation::Registration registration{
#define TRANSNEXT_KERNEL(...) {#__VA_ARGS__, emulation::KernelOf<&__VA_ARGS__>::value},
#include TRANSNEXT_TEXT(device/kernels/TRANSNEXT_OPERATOR.inc)
#undef TRANSNEXT_KERNEL
};

}  // namespace
}  // namespace transnext
