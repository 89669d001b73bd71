// The part of the DLPack binary interface that this library reads: the layout of a tensor in a
// capsule, and the interface that a tensor's type offers without one. Layouts are those of DLPack
// versions 0.x ("dltensor") and 1.x ("dltensor_versioned", ExchangeInterface).
#pragma once

#include <cstdint>

namespace transnext::dlpack {

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4 };

struct Device {
  std::int32_t type;
  std::int32_t index;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t rank;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; nullptr means row-major and compact
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  void* manager_context;
  void (*deleter)(ManagedTensorVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};

// The content of the attribute __dlpack_c_exchange_api__ of a tensor's Python type, a capsule named
// kExchangeName. Functions that this library does not call have no types here.
struct ExchangeInterface {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  ExchangeInterface* previous;
  void (*allocate)();
  void (*managed_from_object)();
  void (*managed_to_object)();
  // Fills in a tensor whose memory, sizes and strides belong to the Python object. Returns 0, or
  // sets a Python exception. May be null.
  int (*tensor_from_object)(void* object, Tensor* tensor);
};

constexpr char kExchangeAttribute[] = "__dlpack_c_exchange_api__";
constexpr char kExchangeName[] = "dlpack_exchange_api";

}  // namespace transnext::dlpack
