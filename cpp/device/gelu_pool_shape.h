// Thread block of the gelu_pool kernels, shared by the kernels and their launch plan.
#pragma once

namespace transnext {

constexpr unsigned kGeluPoolLanes =
    32;  // threads along channels: one warp reads consecutive channels
constexpr unsigned kGeluPoolRows = 8;  // forward: threads that share a bin; backward: tokens

}  // namespace transnext
