#include <stdexcept>

#include "transnext/launches.h"

namespace transnext {

std::string kernel_name(const char* name, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return std::string(name) + "<float>";
    case DType::kFloat16:
      return std::string(name) + "<Half>";
    case DType::kBFloat16:
      return std::string(name) + "<BFloat16>";
    default:
      throw std::invalid_argument(std::string(name) +
                                  ": the CUDA kernels take float32, float16 and bfloat16");
  }
}

}  // namespace transnext
