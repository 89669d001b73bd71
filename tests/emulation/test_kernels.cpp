// The kernels of the emulation's own tests, compiled into it beside the operators'.
#include "emulation/cuda.h"
#include "emulation/kernels.h"
#include "emulation/semantics_kernels.cuh"
#include "emulation/wrapper_kernels.cuh"

#define KERNEL(...) {#__VA_ARGS__, emulation::KernelOf<&__VA_ARGS__>::value},

namespace transnext {
namespace {

const emulation::Registration registration{
    KERNEL(product_by_fragments<Half>) KERNEL(product_by_fragments<BFloat16>) KERNEL(
        product_by_ldmatrix<Half>) KERNEL(product_by_ldmatrix<BFloat16>)
        KERNEL(tensor_float_product_by_fragments) KERNEL(tensor_float_product_by_ldmatrix) KERNEL(
            round_to_tensor_floats) KERNEL(load_matrices) KERNEL(copy_in_groups) KERNEL(reverse)
            KERNEL(reverse_without_barrier) KERNEL(read_what_the_last_block_left) KERNEL(
                barrier_after_exit) KERNEL(divergent_barrier) KERNEL(deadlock) KERNEL(read_global)
                KERNEL(write_global) KERNEL(write_input) KERNEL(write_dynamic_shared)
                    KERNEL(write_static_shared) KERNEL(read_misaligned) KERNEL(shuffles)
                        KERNEL(shuffle_outside_its_mask) KERNEL(shuffle_from_outside_its_mask)
                            KERNEL(shuffle_with_exited_lanes) KERNEL(shuffle_of_two_minds)
                                KERNEL(atomic_sum) KERNEL(asynchronous_copy) KERNEL(indices)};

}  // namespace
}  // namespace transnext
