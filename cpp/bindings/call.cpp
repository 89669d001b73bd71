#include "bindings/call.h"

namespace transnext::bindings {
namespace {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kInt32:
      return "int32";
  }
  return "unknown";
}

bool read_dtype(const dlpack::DataType& type, DType* dtype) {
  if (type.lanes != 1) return false;
  if (type.code == dlpack::kFloat && type.bits == 16) return *dtype = DType::kFloat16, true;
  if (type.code == dlpack::kFloat && type.bits == 32) return *dtype = DType::kFloat32, true;
  if (type.code == dlpack::kFloat && type.bits == 64) return *dtype = DType::kFloat64, true;
  if (type.code == dlpack::kBFloat && type.bits == 16) return *dtype = DType::kBFloat16, true;
  if (type.code == dlpack::kInt && type.bits == 32) return *dtype = DType::kInt32, true;
  return false;
}

template <class Sizes>
std::string shape_text(const Sizes* begin, const Sizes* end) {
  std::string text = "[";
  for (const Sizes* size = begin; size != end; ++size) {
    if (size != begin) text += ", ";
    text += *size == kAny ? std::string("any") : std::to_string(*size);
  }
  return text + "]";
}

// The interface by which tensors of a Python type are read without a capsule, or nullptr. Types are
// few and live as long as the process, so the last one is remembered.
const dlpack::ExchangeInterface* interface_of(PyTypeObject* type) {
  static PyTypeObject* last_type = nullptr;
  static const dlpack::ExchangeInterface* last = nullptr;
  if (type == last_type) return last;
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), dlpack::kExchangeAttribute);
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const dlpack::ExchangeInterface* found = nullptr;
  if (PyCapsule_IsValid(capsule, dlpack::kExchangeName))
    found = static_cast<const dlpack::ExchangeInterface*>(
        PyCapsule_GetPointer(capsule, dlpack::kExchangeName));
  Py_DECREF(capsule);
  while (found != nullptr && found->major_version != 1) found = found->previous;
  if (found == nullptr || found->tensor_from_object == nullptr) return nullptr;
  Py_INCREF(type);  // so that no other type takes its place in memory
  Py_XDECREF(last_type);
  last_type = type;
  return last = found;
}

// The tensor that an argument is or, if it is a capsule, holds; false if there is none.
bool read_tensor(py::handle argument, dlpack::Tensor* tensor) {
  if (PyCapsule_IsValid(argument.ptr(), "dltensor")) {
    *tensor = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(argument.ptr(), "dltensor"))
                  ->tensor;
    return true;
  }
  if (PyCapsule_IsValid(argument.ptr(), "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(argument.ptr(), "dltensor_versioned"));
    // A change of the major version changes the layout.
    if (managed->major_version != 1) return false;
    *tensor = managed->tensor;
    return true;
  }
  const dlpack::ExchangeInterface* interface = interface_of(Py_TYPE(argument.ptr()));
  if (interface == nullptr) return false;
  if (interface->tensor_from_object(argument.ptr(), tensor) != 0) throw py::error_already_set();
  return true;
}

// Stands for the data of tensors without elements, which may have none: an absent view is another
// thing.
char no_elements;

}  // namespace

dlpack::Tensor borrowed_tensor(py::handle argument, const char* op, const char* name) {
  dlpack::Tensor tensor;
  if (!read_tensor(argument, &tensor)) {
    throw py::type_error(std::string(op) + ": " + name + " is " + Py_TYPE(argument.ptr())->tp_name +
                         ", needs a DLPack capsule or a tensor that has DLPack's C interface");
  }
  return tensor;
}

void Call::fail(const std::string& message) const {
  throw py::value_error(std::string(op_) + ": " + message);
}

Grid Call::grid(const GridArgument& grid, const char* name) const {
  constexpr index_t kLargest = index_t{1} << 31;
  if (grid.first < 1 || grid.second < 1 || grid.first > kLargest || grid.second > kLargest) {
    fail(std::string(name) + " is (" + std::to_string(grid.first) + ", " +
         std::to_string(grid.second) + "), needs two positive sizes");
  }
  return {grid.first, grid.second};
}

DType Call::dtype(const std::string& dtype, const char* name) const {
  if (dtype == "float16") return DType::kFloat16;
  if (dtype == "bfloat16") return DType::kBFloat16;
  if (dtype == "float32") return DType::kFloat32;
  if (dtype == "float64") return DType::kFloat64;
  fail(std::string(name) + " is '" + dtype + "', needs float16, bfloat16, float32 or float64");
}

void Call::check_dtype(const char* name, DType got, Kind kind) {
  if (kind == Kind::kActivation && !has_dtype_) {
    if (got == DType::kInt32) fail(std::string(name) + " is int32, needs a floating-point type");
    has_dtype_ = true;
    dtype_ = got;
  }
  if (kind == Kind::kParameter && !has_dtype_) {
    // Operators on parameters alone: T is C(T).
    has_dtype_ = true;
    dtype_ = got == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  }
  if (kind == Kind::kFloating) {
    if (got == DType::kInt32) fail(std::string(name) + " is int32, needs a floating-point type");
    if (has_dtype_ && (got == DType::kFloat64) != (dtype_ == DType::kFloat64)) {
      fail(std::string(name) + " is " + name_of(got) + ", which does not go with " +
           name_of(dtype_));
    }
    return;
  }
  DType needed = dtype_;
  if (kind == Kind::kParameter && dtype_ != DType::kFloat64) needed = DType::kFloat32;
  if (kind == Kind::kInt32) needed = DType::kInt32;
  if (got != needed) fail(std::string(name) + " is " + name_of(got) + ", needs " + name_of(needed));
}

PackedWeight Call::packed(py::handle argument, const char* name, index_t columns, index_t depth) {
  const auto view = this->view<1>(argument, name, {kAny}, Kind::kFloating);
  if (view.dtype == DType::kFloat16) fail(std::string(name) + " is float16, needs another type");
  const index_t size = packed_weight_size(view.dtype, columns, depth);
  if (view.shape[0] != size || view.stride[0] != 1) {
    fail(std::string(name) + " has " + std::to_string(view.shape[0]) + " elements, needs " +
         std::to_string(size) + ", those of a packed [" + std::to_string(columns) + ", " +
         std::to_string(depth) + "]");
  }
  if (!has_dtype_) {
    has_dtype_ = true;
    dtype_ = view.dtype;
  }
  return {view.data, view.dtype, columns, depth};
}

LayerNormParams Call::norm(py::handle weight, py::handle bias, index_t depth, double epsilon) {
  LayerNormParams norm;
  if (weight.is_none()) return norm;
  norm.weight = parameter<1>(weight, "norm_weight", {depth});
  norm.bias = parameter<1>(bias, "norm_bias", {depth});
  norm.epsilon = epsilon;
  return norm;
}

void Call::read(py::handle argument, const char* name, std::initializer_list<index_t> expected,
                Kind kind, int rank, void** data, DType* dtype, index_t* shape, index_t* stride) {
  const dlpack::Tensor tensor = borrowed_tensor(argument, op_, name);
  if (!read_dtype(tensor.dtype, dtype)) {
    fail(std::string(name) + " has element type (code " + std::to_string(tensor.dtype.code) + ", " +
         std::to_string(tensor.dtype.bits) +
         " bits), needs float16, bfloat16, float32, float64 or int32");
  }
  check_dtype(name, *dtype, kind);

  const dlpack::Device device = tensor.device;
  if (device.type != dlpack::kCpu && device.type != dlpack::kCuda) {
    fail(std::string(name) + " is on DLPack device type " + std::to_string(device.type) +
         ", needs CPU (1) or CUDA (2)");
  }
  if (!has_device_) {
    has_device_ = true;
    device_ = device;
  } else if (device.type != device_.type ||
             (device.type == dlpack::kCuda && device.index != device_.index)) {
    fail(std::string(name) + " is on another device than the first tensor");
  }

  bool matches = tensor.rank == rank && static_cast<int>(expected.size()) == rank;
  for (int i = 0; matches && i < rank; ++i) {
    const index_t size = expected.begin()[i];
    matches = size == kAny || size == tensor.shape[i];
  }
  if (!matches) {
    fail(std::string(name) + " has shape " + shape_text(tensor.shape, tensor.shape + tensor.rank) +
         ", needs " + shape_text(expected.begin(), expected.end()));
  }

  index_t elements = 1;
  for (int i = rank - 1; i >= 0; --i) {
    shape[i] = tensor.shape[i];
    stride[i] = tensor.strides != nullptr ? tensor.strides[i] : elements;
    elements *= shape[i];
  }
  *data = elements == 0 ? &no_elements : static_cast<char*>(tensor.data) + tensor.byte_offset;
}

}  // namespace transnext::bindings
