// The arguments of one operator call from Python: tensors in, as they are where their type has DLPack's
// C interface, else as DLPack capsules; checked views out, and the run itself.
//
// Both are only borrowed: a capsule is neither renamed nor its deleter called. Python holds them during
// the call and frees the tensor afterwards, so nothing can leak or be freed twice here.
#pragma once

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <pybind11/pybind11.h>

#include "bindings/dlpack.h"
#include "bindings/recording.h"
#include "transnext/linear.h"
#include "transnext/tensor.h"

namespace transnext::bindings {

namespace py = pybind11;

// Sizes that a check leaves open: any but 0, and a batch, which may be empty.
constexpr index_t kAny = -1;
constexpr index_t kAnyBatch = -2;

// Kernels hold a few numbers per window cell; more cells than this are a mistake.
constexpr index_t kLargestWindow = 4096;

// No size of a tensor's is larger, and products of two of them do not overflow.
constexpr index_t kLargestSize = index_t{1} << 31;

// Maps are copied; one with more entries is a mistake.
constexpr index_t kLargestMap = index_t{1} << 28;

// A tensor that cannot be read where it is, but a copy of it can: its elements are not aligned, it
// stands for the negative of its memory, or for zeros without memory.
struct UnreadableTensor : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Two sizes, taken apart by Call::grid: pybind11 would print all arguments, tensors included, into its
// error.
using GridArgument = py::handle;

struct BorrowedTensor {
  dlpack::Tensor tensor;
  bool negative = false;  // its values are the negatives of what is in its memory
};

// The tensor that an argument is, or that a capsule holds; TypeError "<op>: <name> ..." if it is none.
BorrowedTensor borrowed_tensor(py::handle argument, const char* op, const char* name);

class Call {
 public:
  explicit Call(const char* op) : op_(op) {}

  // Storage type T: the first activation says which, all others must have the same.
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
  // An int32 map of indices below `limit`. Whoever holds the tensor may write to it while the call
  // runs, so on the CPU the entries are copied, the copy is checked, and the kernel reads the copy.
  // On a GPU they cannot be looked at here: kernels bound what they read (cuda/kernels/bias/pooled_bias.cuh).
  template <int kRank>
  View<kRank> map(py::handle argument, const char* name, std::initializer_list<index_t> shape,
                  index_t limit) {
    View<kRank> result = int32<kRank>(argument, name, shape);
    if (on_cpu()) copy_map(name, kRank, limit, &result.data, result.shape, result.stride);
    return result;
  }
  // Any floating-point type that goes with the parameters' C(T): float64 with float64, the others
  // with float32.
  template <int kRank>
  View<kRank> floating(py::handle argument, const char* name,
                       std::initializer_list<index_t> shape) {
    return view<kRank>(argument, name, shape, Kind::kFloating);
  }
  // A packed weight of [columns, depth]; the first one says what C(T) is.
  PackedWeight packed(py::handle argument, const char* name, index_t columns, index_t depth);
  // A LayerNorm's parameters; absent if the weight is None.
  LayerNormParams norm(py::handle weight, py::handle bias, index_t depth, double epsilon);
  // The same for arguments that may be None, which gives an absent view.
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
  // The product of sizes, which must have one.
  index_t product(std::initializer_list<index_t> sizes) const;
  // The floating-point type that torch calls so.
  DType dtype(const std::string& dtype, const char* name) const;
  // Throws ValueError "<op>: <message>".
  [[noreturn]] void fail(const std::string& message) const;

  // Whether the tensors are where this code can read them.
  bool on_cpu() const { return device_.type == dlpack::kCpu; }

  // Runs the CPU kernel, without the GIL. In a recording (recording.h) it notes what would run on a
  // GPU instead, wherever the tensors are; that is the only way of tensors on a GPU.
  template <class Params>
  void run(int threads, const Params& params, void (*cpu_kernel)(const Params&, int),
           std::common_type_t<Launches (*)(const Params&, int)> plan = nullptr) const {
    if (Recording* recording = Recording::current()) {
      if (plan == nullptr) fail("it has no CUDA kernel, needs to run on the CPU");
      recording->launches = plan(params, recording->architecture);
      return;
    }
    if (!on_cpu()) fail("CUDA tensors run by record_launches and run_launches");
    py::gil_scoped_release release;
    cpu_kernel(params, threads);
  }

 private:
  enum class Kind { kActivation, kParameter, kFloating, kInt32 };

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
  std::vector<std::unique_ptr<int[]>> maps_;  // copies that kernels read
  bool has_device_ = false;
  bool has_dtype_ = false;
  dlpack::Device device_{dlpack::kCpu, 0};
  DType dtype_ = DType::kFloat32;
};

}  // namespace transnext::bindings
