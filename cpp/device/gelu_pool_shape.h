// Thread block of the gelu_pool kernels, shared by the kernels and their launch plan.
#pragma once

namespace transnext {

constexpr unsigned kGeluPoolRun = 2;     // channels of a thread
constexpr unsigned kGeluPoolLanes = 48;  // threads along channels, at most
constexpr unsigned kGeluPoolBlocks = 2;  // of a multiprocessor, at least: 80 registers
constexpr unsigned kGeluPoolRows = 8;    // forward: threads that share a bin; backward: tokens

}  // namespace transnext
