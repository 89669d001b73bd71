#include "bindings/call.h"

#include <utility>

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
    text += *size == kAny || *size == kAnyBatch ? std::string("any") : std::to_string(*size);
  }
  return text + "]";
}

bool fits(index_t size, index_t expected) {
  if (expected == kAny) return size > 0;
  return expected == kAnyBatch ? size >= 0 : size == expected;
}

// How tensors of a Python type are read without a capsule. There are few types, which live as long
// as the process, so the last one is cached.
struct TensorType {
  PyTypeObject* type = nullptr;
  const dlpack::ExchangeInterface* interface = nullptr;
  PyObject* is_negative =
      nullptr;  // a tensor's method: whether it represents the negative of its memory
};

PyObject* attribute_of(PyTypeObject* type, const char* name) {
  PyObject* found = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name);
  if (found == nullptr) PyErr_Clear();
  return found;
}

// nullptr if the type has no such interface.
const TensorType* tensor_type(PyTypeObject* type) {
  static TensorType last;
  if (type == last.type) return &last;
  PyObject* capsule = attribute_of(type, dlpack::kExchangeAttribute);
  if (capsule == nullptr) return nullptr;
  const dlpack::ExchangeInterface* found = nullptr;
  if (PyCapsule_IsValid(capsule, dlpack::kExchangeName))
    found = static_cast<const dlpack::ExchangeInterface*>(
        PyCapsule_GetPointer(capsule, dlpack::kExchangeName));
  Py_DECREF(capsule);
  while (found != nullptr && found->major_version != 1) found = found->previous;
  if (found == nullptr || found->tensor_from_object == nullptr) return nullptr;
  Py_INCREF(type);  // so that no other type is allocated at its address
  Py_XDECREF(last.type);
  Py_XDECREF(last.is_negative);
  last = {type, found, attribute_of(type, "is_neg")};
  return &last;
}

// False if the argument is no tensor.
bool read_tensor(py::handle argument, BorrowedTensor* result) {
  if (PyCapsule_IsValid(argument.ptr(), "dltensor")) {
    result->tensor =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(argument.ptr(), "dltensor"))
            ->tensor;
    return true;
  }
  if (PyCapsule_IsValid(argument.ptr(), "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(argument.ptr(), "dltensor_versioned"));
    // A change of the major version changes the layout.
    if (managed->major_version != 1) return false;
    result->tensor = managed->tensor;
    return true;
  }
  const TensorType* type = tensor_type(Py_TYPE(argument.ptr()));
  if (type == nullptr) return false;
  const dlpack::ExchangeInterface* interface = type->interface;
  if (type->is_negative != nullptr) {
    PyObject* negative = PyObject_CallOneArg(type->is_negative, argument.ptr());
    if (negative == nullptr) throw py::error_already_set();
    result->negative = negative == Py_True;
    Py_DECREF(negative);
  }
  if (interface->tensor_from_object(argument.ptr(), &result->tensor) != 0)
    throw py::error_already_set();
  return true;
}

// A whole number of a sequence.
index_t size_at(py::handle sequence, Py_ssize_t i) {
  const auto size = py::reinterpret_steal<py::object>(PySequence_GetItem(sequence.ptr(), i));
  if (!size) throw py::error_already_set();
  const index_t result = PyLong_AsLongLong(size.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return result;
}

// Stands for the data of empty tensors, which may be null: null data means an absent view.
char no_elements;

}  // namespace

BorrowedTensor borrowed_tensor(py::handle argument, const char* op, const char* name) {
  BorrowedTensor borrowed;
  if (!read_tensor(argument, &borrowed)) {
    throw py::type_error(std::string(op) + ": " + name + " is " + Py_TYPE(argument.ptr())->tp_name +
                         ", needs a DLPack capsule or a tensor that has DLPack's C interface");
  }
  return borrowed;
}

void Call::fail(const std::string& message) const {
  throw py::value_error(std::string(op_) + ": " + message);
}

Grid Call::grid(GridArgument grid, const char* name) const {
  const Py_ssize_t count = PySequence_Check(grid.ptr()) != 0 ? PySequence_Size(grid.ptr()) : -1;
  if (count != 2) {
    PyErr_Clear();
    throw py::type_error(
        std::string(op_) + ": " + name + " needs two whole numbers, got " +
        (count < 0 ? Py_TYPE(grid.ptr())->tp_name : std::to_string(count) + " values"));
  }
  const index_t sizes[2] = {size_at(grid, 0), size_at(grid, 1)};
  if (sizes[0] < 1 || sizes[1] < 1 || sizes[0] > kLargestSize || sizes[1] > kLargestSize) {
    fail(std::string(name) + " is (" + std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) +
         "), needs two positive sizes");
  }
  return {sizes[0], sizes[1]};
}

std::vector<index_t> Call::sizes(py::handle sizes, const char* name) const {
  const Py_ssize_t count = PySequence_Check(sizes.ptr()) != 0 ? PySequence_Size(sizes.ptr()) : -1;
  if (count < 0) {
    PyErr_Clear();
    throw py::type_error(std::string(op_) + ": " + name + " needs whole numbers, got " +
                         Py_TYPE(sizes.ptr())->tp_name);
  }
  std::vector<index_t> result;
  for (Py_ssize_t i = 0; i < count; ++i) result.push_back(size_at(sizes, i));
  return result;
}

index_t Call::product(std::initializer_list<index_t> sizes) const {
  index_t result = 1;
  for (const index_t size : sizes) {
    if (__builtin_mul_overflow(result, size, &result)) fail("the sizes are beyond any memory");
  }
  return result;
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
    // For operators on parameters only: T is C(T).
    has_dtype_ = true;
    dtype_ = got == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  }
  if (kind == Kind::kFloating || kind == Kind::kPacked) {
    if (got == DType::kInt32 && kind == Kind::kFloating)
      fail(std::string(name) + " is int32, needs a floating-point type");
    if (got != DType::kFloat32 && kind == Kind::kFloating && has_split_)
      fail(std::string(name) + " is " + name_of(got) + ", needs float32 beside split weights");
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
  const auto view = this->view<1>(argument, name, {kAny}, Kind::kPacked);
  if (view.dtype == DType::kFloat16) fail(std::string(name) + " is float16, needs another type");
  if (columns > kLargestSize || depth > kLargestSize)
    fail(std::string(name) + " would be [" + std::to_string(columns) + ", " +
         std::to_string(depth) + "], beyond any memory");
  const index_t size = packed_weight_size(view.dtype, columns, depth);
  if (view.stride[0] != 1) fail(std::string(name) + " must be contiguous");
  if (view.shape[0] != size) {
    fail(std::string(name) + " has " + std::to_string(view.shape[0]) + " elements, needs " +
         std::to_string(size) + ", those of a packed [" + std::to_string(columns) + ", " +
         std::to_string(depth) + "]");
  }
  if (!has_dtype_) {
    has_dtype_ = true;
    has_split_ = view.dtype == kSplitFloat;
    dtype_ = has_split_ ? DType::kFloat32 : view.dtype;
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
  const BorrowedTensor borrowed = borrowed_tensor(argument, op_, name);
  if (Program::recorded() != nullptr)
    kept_.tensors.push_back(py::reinterpret_borrow<py::object>(argument));
  const dlpack::Tensor& tensor = borrowed.tensor;
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
  bool empty = false;
  for (int i = 0; matches && i < rank; ++i) {
    matches = fits(tensor.shape[i], expected.begin()[i]);
    empty = empty || (tensor.shape[i] == 0 && expected.begin()[i] == kAny);
  }
  if (!matches) {
    fail(std::string(name) + " has shape " + shape_text(tensor.shape, tensor.shape + tensor.rank) +
         ", needs " + shape_text(expected.begin(), expected.end()) +
         (empty ? ", none of them 0 but a batch" : ""));
  }

  // The stride of a dimension of size 1 is irrelevant and set to that of compact memory. With the
  // other strides, the furthest element must have an address.
  index_t elements = 1;
  index_t furthest = 0;
  bool addressable = true;
  for (int i = rank - 1; i >= 0; --i) {
    shape[i] = tensor.shape[i];
    stride[i] = tensor.strides != nullptr && shape[i] > 1 ? tensor.strides[i] : elements;
    index_t reach = 0;
    addressable = addressable && stride[i] >= 0 &&
                  !__builtin_mul_overflow(shape[i] > 0 ? shape[i] - 1 : 0, stride[i], &reach) &&
                  !__builtin_add_overflow(furthest, reach, &furthest) &&
                  !__builtin_mul_overflow(elements, shape[i], &elements);
  }
  const index_t size = tensor.dtype.bits / 8;
  addressable = addressable && !__builtin_mul_overflow(furthest, size, &furthest);
  if (elements == 0) {
    *data = &no_elements;
    return;
  }
  if (!addressable) {
    fail(std::string(name) + " has strides " +
         (tensor.strides != nullptr ? shape_text(tensor.strides, tensor.strides + rank) : "[]") +
         ", needs non-negative ones within the address space");
  }
  *data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  const auto address = reinterpret_cast<std::uintptr_t>(*data);
  const char* reason = borrowed.negative        ? " is the negative of its memory"
                       : tensor.data == nullptr ? " has no memory"
                       : address % static_cast<std::uintptr_t>(size) != 0
                           ? " is not aligned to its elements' size"
                           : nullptr;
  if (reason != nullptr)
    throw UnreadableTensor(std::string(op_) + ": " + name + reason + ", needs to be copied");
}

void Call::copy_map(const char* name, int rank, index_t limit, void** data, const index_t* shape,
                    index_t* stride) {
  index_t size = 1;
  for (int i = 0; i < rank; ++i) {
    // read() has made sure that the product does not overflow. But a view may claim more elements
    // than it holds.
    size *= shape[i];
    if (size > kLargestMap)
      fail(std::string(name) + " has more than " + std::to_string(kLargestMap) + " entries");
  }
  std::unique_ptr<int[]> copy(new int[static_cast<std::size_t>(size)]);
  const int* from = static_cast<const int*>(*data);
  index_t at[3] = {};
  for (index_t i = 0; i < size; ++i) {
    index_t offset = 0;
    for (int axis = 0; axis < rank; ++axis) offset += at[axis] * stride[axis];
    // Each entry is read once, since another thread may write it at any time.
    copy[i] = __atomic_load_n(from + offset, __ATOMIC_RELAXED);
    if (copy[i] < 0 || copy[i] >= limit) {
      fail(std::string(name) + " has the index " + std::to_string(copy[i]) +
           ", the table's axis has size " + std::to_string(limit));
    }
    for (int axis = rank - 1; axis >= 0 && ++at[axis] == shape[axis]; --axis) at[axis] = 0;
  }
  // A recording runs after this call, on memory that its runner knows.
  if (Recording::current() != nullptr) return;
  *data = copy.get();
  index_t step = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    stride[axis] = step;
    step *= shape[axis];
  }
  kept_.maps.push_back(std::move(copy));
}

}  // namespace transnext::bindings
