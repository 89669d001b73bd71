// Which instruction set the CPU kernels run with.
#pragma once

#include <string>
#include <vector>

namespace transnext::cpu {

// "baseline", "avx2", "avx512" or "avx512_bf16": the best level of this processor, or the value of
// the environment variable TRANSNEXT_CPU_LEVEL when the first kernel runs. Throws
// std::runtime_error if that level is not available.
const char* level_name();

// Changes the level of subsequent calls in all threads, for tests and comparisons. nullptr restores
// the default.
void set_level(const char* name);

// The levels in this build that this processor can run, slowest first.
std::vector<std::string> available_levels();

}  // namespace transnext::cpu
