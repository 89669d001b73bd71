#include <stdexcept>

#include "cuda/plans/launches.h"

namespace transnext {
namespace {

const char* storage_name(const char* name, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float";
    case DType::kFloat16:
      return "Half";
    case DType::kBFloat16:
      return "BFloat16";
    default:
      throw std::invalid_argument(std::string(name) + ": tensors are " +
                                  (dtype == DType::kFloat64 ? "float64" : "int32") +
                                  ", the CUDA kernels take float32, float16 and bfloat16");
  }
}

}  // namespace

std::string kernel_name(const char* name, DType dtype, const std::string& rest) {
  return kernel_name(name, storage_name(name, dtype), rest);
}

std::string kernel_name(const char* name, const char* type, const std::string& rest) {
  return std::string(name) + "<" + type + (rest.empty() ? "" : ", ") + rest + ">";
}

}  // namespace transnext
