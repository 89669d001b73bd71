// Which instruction set the CPU kernels run with.
#pragma once

#include <string>
#include <vector>

namespace transnext::cpu {

// "baseline", "avx2", "avx512" or "avx512_bf16": the best this processor has, or what the environment variable
// TRANSNEXT_CPU_LEVEL says when the first kernel runs. Throws std::runtime_error if that names a
// level that is not available here.
const char* level_name();

// Changes the level for the calls that follow, in all threads: for tests and comparisons. nullptr:
// the default.
void set_level(const char* name);

// The levels that this build has and this processor can run, slowest first.
std::vector<std::string> available_levels();

}  // namespace transnext::cpu
