// Thread blocks of the window kernels, shared by the kernels and their launch plans.
#pragma once

namespace transnext {

constexpr int kWindowThreads = 256;
constexpr int kWindowBlocks = 3;  // of a multiprocessor, at least: 80 registers
constexpr int kWindowRun = 4;     // channels of a thread at a time
constexpr int kWindowAtOnce = 2;  // loads in flight per thread
constexpr int kWindowItems = 4;   // sums of a thread in window_gather and window_scatter

}  // namespace transnext
