// What this processor and this process can run, beside what every processor of its family has.
#pragma once

#include <string>

namespace transnext::cpu {

// 64-bit Arm's products of bfloat16, as far as Linux tells.
bool has_neon_bf16();

bool has_avx2();
bool has_avx512();
bool has_avx512_bf16();

// Whether the processor and the system know the tile unit for bfloat16 (AMX).
bool has_tiles();

// Why this process may not use it, empty if it may. The first call asks Linux for the permission,
// which then holds for all threads and forked children.
const std::string& tile_refusal();

// Whether `vdpbf16ps` is slower than widened products in float32: its rate is twice theirs on AMD's
// processors, and half of it on Intel's with AMX. Other processors are measured, once, in a quarter
// of a millisecond.
bool has_slow_dot_products();

namespace avx512_bf16 {
// The time of a dot product over that of a float32 multiply-add, measured (dot_rate.cpp).
double measured_dot_time();
}  // namespace avx512_bf16

}  // namespace transnext::cpu
