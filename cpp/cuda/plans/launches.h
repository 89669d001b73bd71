// What an operator runs on a GPU: its kernels with their grids, blocks, shared memory and
// arguments, as a pure function of the operator's Params and the GPU's architecture. The compiled
// library, the CuPy backend and the tests that run kernels on a CPU all use these launches.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cuda/plans/launch_plan.h"
#include "transnext/add_layer_norm.h"
#include "transnext/aggregated_attention.h"
#include "transnext/conv_glu.h"
#include "transnext/deformable_attention.h"
#include "transnext/gelu_pool.h"
#include "transnext/position_bias_table.h"
#include "transnext/tensor.h"
#include "transnext/window.h"

namespace transnext {

struct KernelLaunch {
  std::string kernel;  // as in cuda/instances/*.inc, for example "gelu_pool_forward<Half>"
  LaunchPlan plan;
  std::vector<unsigned char> params;  // the kernel's one argument, passed by value
};

// Kernels that run one after the other.
struct Launches {
  std::string source;     // header of the kernels, for example "cuda/kernels/pool/gelu_pool.cuh"
  index_t workspace = 0;  // floats of scratch memory for all the kernels
  std::vector<KernelLaunch> kernels;
  std::vector<std::size_t> workspace_pointers;  // where each kernel's params point to it

  // Adds a kernel that uses no workspace, unless it has nothing to do.
  template <class Params>
  void add(std::string kernel, const LaunchPlan& plan, const Params& params) {
    add_at(std::move(kernel), plan, params, kNoWorkspace);
  }
  // Adds a kernel whose Params have a member `float* workspace`.
  template <class Params>
  void add_with_workspace(std::string kernel, const LaunchPlan& plan, const Params& params) {
    const auto* begin = reinterpret_cast<const unsigned char*>(&params);
    const auto* member = reinterpret_cast<const unsigned char*>(&params.workspace);
    add_at(std::move(kernel), plan, params, static_cast<std::size_t>(member - begin));
  }
  void place_workspace(void* memory) {
    for (std::size_t i = 0; i < kernels.size(); ++i) {
      if (workspace_pointers[i] == kNoWorkspace) continue;
      std::memcpy(kernels[i].params.data() + workspace_pointers[i], &memory, sizeof(memory));
    }
  }

 private:
  static constexpr std::size_t kNoWorkspace = ~std::size_t{0};

  template <class Params>
  void add_at(std::string kernel, const LaunchPlan& plan, const Params& params,
              std::size_t workspace_pointer) {
    if (plan.empty()) return;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&params);
    kernels.push_back({std::move(kernel), plan, {bytes, bytes + sizeof(params)}});
    workspace_pointers.push_back(workspace_pointer);
  }
};

// "name<T>", T the storage type of a kernel's tensors, or "name<T, rest>". Throws
// std::invalid_argument, naming the operator, for a type that the kernels do not support.
std::string kernel_name(const char* name, DType dtype, const std::string& rest = {});
std::string kernel_name(const char* name, const char* type, const std::string& rest);

// How the fused attention is launched.
struct AttentionPlan {
  LaunchPlan launch{};
  bool tensor_float = false;  // operands of the pooled QK^T and PV are rounded to TF32
  int channels = 0;           // head dim of the kernel, the tensors' rounded up
  int window = 0;             // window size of the kernel, or kNoWindow, kAnyWindow
  const char* tile = "";      // of cuda/kernels/attention/shape.h
};

// `architecture` is a compute capability, major * 10 + minor. TF32 is used where it is allowed and
// a kernel exists: float32 with head dims up to 24, from 8.0 on.
AttentionPlan aggregated_attention_plan(DType dtype, index_t batch, index_t heads, index_t channels,
                                        Grid grid, index_t window_size, bool has_bias,
                                        bool allow_tf32, int architecture);

Launches launches(const AddLayerNormParams& params, int architecture);
Launches launches(const AddLayerNormBackwardParams& params, int architecture);
Launches launches(const AggregatedAttentionParams& params, int architecture);
Launches launches(const AggregatedAttentionBackwardParams& params, int architecture);
Launches launches(const GeluPoolParams& params, int architecture);
Launches launches(const GeluPoolBackwardParams& params, int architecture);
Launches launches(const ConvGluParams& params, int architecture);
Launches launches(const ConvGluBackwardParams& params, int architecture);
Launches launches(const DeformableAttentionParams& params, int architecture);
Launches launches(const DeformableAttentionBackwardParams& params, int architecture);
Launches launches(const PositionBiasTableParams& params, int architecture);
Launches launches(const PositionBiasTableBackwardParams& params, int architecture);
Launches launches(const WindowQkParams& params, int architecture);
Launches launches(const WindowQkBackwardParams& params, int architecture);
Launches launches(const WindowAvParams& params, int architecture);
Launches launches(const WindowAvBackwardParams& params, int architecture);

}  // namespace transnext
