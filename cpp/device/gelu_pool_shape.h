// Thread block of the gelu_pool kernels, shared by the kernels and their launch plan.
#pragma once

namespace transnext {

constexpr unsigned kGeluPoolRun = 2;     // channels of a thread
constexpr unsigned kGeluPoolLanes = 32;  // threads along channels, at most
constexpr unsigned kGeluPoolRows = 8;    // forward: threads that share a bin; backward: tokens

}  // namespace transnext
