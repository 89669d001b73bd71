#include "cuda/launch.h"
#include "device/gelu_pool.cuh"
#include "transnext/gelu_pool.h"

namespace transnext::cuda {

void gelu_pool(const GeluPoolParams& params, int device, void* stream) {
  constexpr const char* kOp = "gelu_pool";
  const LaunchPlan plan =
      gelu_pool_plan(params.x.shape[0], params.x.shape[2], params.grid, params.pool_grid);
  switch (params.x.dtype) {
    case DType::kFloat32:
      return launch(kOp, gelu_pool_forward<float>, plan, params, device, stream);
    case DType::kFloat16:
      return launch(kOp, gelu_pool_forward<Half>, plan, params, device, stream);
    case DType::kBFloat16:
      return launch(kOp, gelu_pool_forward<BFloat16>, plan, params, device, stream);
    default:
      unsupported_dtype(kOp);
  }
}

void gelu_pool_backward(const GeluPoolBackwardParams& params, int device, void* stream) {
  constexpr const char* kOp = "gelu_pool_backward";
  const LaunchPlan plan =
      gelu_pool_backward_plan(params.x.shape[0], params.x.shape[2], params.grid);
  switch (params.x.dtype) {
    case DType::kFloat32:
      return launch(kOp, transnext::gelu_pool_backward<float>, plan, params, device, stream);
    case DType::kFloat16:
      return launch(kOp, transnext::gelu_pool_backward<Half>, plan, params, device, stream);
    case DType::kBFloat16:
      return launch(kOp, transnext::gelu_pool_backward<BFloat16>, plan, params, device, stream);
    default:
      unsupported_dtype(kOp);
  }
}

}  // namespace transnext::cuda
