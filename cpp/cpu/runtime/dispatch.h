// Which instruction set the CPU kernels run with.
#pragma once

#include <string>
#include <vector>

namespace transnext::cpu {

// "baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon" or "neon_bf16": the fastest level here, or the
// value of the environment variable TRANSNEXT_CPU_LEVEL when the first kernel runs. Throws
// std::runtime_error if that level is not available.
const char* level_name();

// Changes the level of subsequent calls in all threads, for tests and comparisons. nullptr restores
// the default.
void set_level(const char* name);

// The levels in this build that this process can run.
std::vector<std::string> available_levels();

// Whether the level in force multiplies float32 that is split into bfloat16 (simd/split_float.h).
bool splits_float32();

// "level: why it is not the default" for what the processor has and does not get: the tile unit
// that the system refuses, instructions that are slow here.
std::vector<std::string> passed_over_levels();

}  // namespace transnext::cpu
