// The arguments of one operator call from Python. Tensors come in directly if their type has
// DLPack's C interface, else as DLPack capsules; they become checked views, with which the operator
// runs.
//
// Both are only borrowed: a capsule is not renamed and its deleter is not called. Python owns them
// during the call and frees the tensor afterwards, so nothing can leak or be freed twice here.
#pragma once

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>

#include "bindings/dlpack.h"
#include "bindings/program.h"
#include "bindings/recording.h"
#include "transnext/linear.h"
#include "transnext/tensor.h"

namespace transnext::bindings {

namespace py = pybind11;

// Sizes that a check does not fix: any size but 0, and a batch, which may be empty.
constexpr index_t kAny = -1;
constexpr index_t kAnyBatch = -2;

// Kernels hold a few numbers per window cell; more cells than this are a mistake.
constexpr index_t kLargestWindow = 4096;

// Limit of every size of a tensor; products of two sizes do not overflow.
constexpr index_t kLargestSize = index_t{1} << 31;

// Maps are copied; one with more entries is a mistake.
constexpr index_t kLargestMap = index_t{1} << 28;

// A tensor that only a copy of can be read: its elements are not aligned, or it represents the
// negative of its memory, or zeros without memory.
struct UnreadableTensor : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Two sizes, parsed by Call::grid: pybind11's own error would print all arguments, including
// tensors.
using GridArgument = py::handle;

struct BorrowedTensor {
  dlpack::Tensor tensor;
  bool negative = false;  // its values are the negatives of its memory
};

// The tensor of an argument or of a capsule; TypeError "<op>: <name> ..." if there is none.
BorrowedTensor borrowed_tensor(py::handle argument, const char* op, const char* name);

class Call {
 public:
  explicit Call(const char* op) : op_(op) {}

  // Storage type T: the first activation determines it, all others must match.
  template <int kRank>
  View<kRank> activation(py::handle argument, const char* name,
                         std::initializer_list<index_t> shape) {
    return view<kRank>(argument, name, shape, Kind::kActivation);
  }
  // Compute type C(T): float64 if T is float64, else float32.
  template <int kRank>
  View<kRank> parameter(py::handle argument, const char* name,
                        std::initializer_list<index_t> shape) {
    return view<kRank>(argument, name, shape, Kind::kParameter);
  }
  template <int kRank>
  View<kRank> int32(py::handle argument, const char* name, std::initializer_list<index_t> shape) {
    return view<kRank>(argument, name, shape, Kind::kInt32);
  }
  // An int32 map of indices below `limit`. Other threads may write to the tensor during the call,
  // so on the CPU the entries are copied and checked, and the kernel reads the copy. On a GPU the
  // entries are out of reach here: kernels bound what they read
  // (cuda/kernels/bias/pooled_bias.cuh).
  template <int kRank>
  View<kRank> map(py::handle argument, const char* name, std::initializer_list<index_t> shape,
                  index_t limit) {
    View<kRank> result = int32<kRank>(argument, name, shape);
    if (on_cpu()) copy_map(name, kRank, limit, &result.data, result.shape, result.stride);
    return result;
  }
  // Any floating-point type that matches the parameters' C(T): float64 with float64, the others
  // with float32.
  template <int kRank>
  View<kRank> floating(py::handle argument, const char* name,
                       std::initializer_list<index_t> shape) {
    return view<kRank>(argument, name, shape, Kind::kFloating);
  }
  // A packed weight of [columns, depth]; the first one determines C(T). With float32 that is split
  // into bfloat16 all tensors of any floating-point type must be float32.
  PackedWeight packed(py::handle argument, const char* name, index_t columns, index_t depth);
  // A LayerNorm's parameters; absent if the weight is None.
  LayerNormParams norm(py::handle weight, py::handle bias, index_t depth, double epsilon);
  // The same for arguments that may be None, which become absent views.
  template <int kRank>
  View<kRank> optional_activation(py::handle argument, const char* name,
                                  std::initializer_list<index_t> shape) {
    return argument.is_none() ? View<kRank>{} : activation<kRank>(argument, name, shape);
  }
  template <int kRank>
  View<kRank> optional_parameter(py::handle argument, const char* name,
                                 std::initializer_list<index_t> shape) {
    return argument.is_none() ? View<kRank>{} : parameter<kRank>(argument, name, shape);
  }

  Grid grid(GridArgument grid, const char* name) const;
  // Whole numbers, as many as there are.
  std::vector<index_t> sizes(py::handle sizes, const char* name) const;
  // The product of sizes; fails if it overflows.
  index_t product(std::initializer_list<index_t> sizes) const;
  // The floating-point type with this name in torch.
  DType dtype(const std::string& dtype, const char* name) const;
  // Throws ValueError "<op>: <message>".
  [[noreturn]] void fail(const std::string& message) const;

  // Whether the tensors are in memory that this code can read.
  bool on_cpu() const { return device_.type == dlpack::kCpu; }

  // Runs the CPU kernel, without the GIL. In a recording (recording.h) it stores the GPU's launches
  // instead, wherever the tensors are; tensors on a GPU can only be recorded. While a program is
  // recorded (program.h), a fused block becomes a step of it.
  template <class Params>
  void run(int threads, const Params& params, void (*cpu_kernel)(const Params&, int),
           std::common_type_t<Launches (*)(const Params&, int)> plan = nullptr) {
    if (Recording* recording = Recording::current()) {
      if (plan == nullptr) fail("it has no CUDA kernel, needs to run on the CPU");
      recording->launches = plan(params, recording->architecture);
      return;
    }
    if (!on_cpu()) fail("CUDA tensors run by record_launches and run_launches");
    if constexpr (Program::kTakes<Params>) {
      if (Program* program = Program::recorded()) return program->add(params, std::move(kept_));
    }
    py::gil_scoped_release release;
    cpu_kernel(params, threads);
  }

 private:
  enum class Kind { kActivation, kParameter, kFloating, kPacked, kInt32 };

  template <int kRank>
  View<kRank> view(py::handle argument, const char* name, std::initializer_list<index_t> shape,
                   Kind kind) {
    View<kRank> result;
    read(argument, name, shape, kind, kRank, &result.data, &result.dtype, result.shape,
         result.stride);
    return result;
  }
  void read(py::handle argument, const char* name, std::initializer_list<index_t> expected,
            Kind kind, int rank, void** data, DType* dtype, index_t* shape, index_t* stride);
  void check_dtype(const char* name, DType got, Kind kind);
  void copy_map(const char* name, int rank, index_t limit, void** data, const index_t* shape,
                index_t* stride);

  const char* op_;
  KeptArguments kept_;  // the copies of maps that kernels read, and a recorded step's tensors
  bool has_device_ = false;
  bool has_dtype_ = false;
  bool has_split_ = false;  // a packed weight of split float32
  dlpack::Device device_{dlpack::kCpu, 0};
  DType dtype_ = DType::kFloat32;
};

}  // namespace transnext::bindings
