# The CPU kernels are compiled once per instruction set ("level"), each time in its own namespace and for the types that
# cpu/runtime/level_types.h lists, and the one to run is chosen at run time. Sets transnext_cpu_levels, the levels that
# this compiler builds, slowest first. A new level needs flags and a check here and an entry in cpu/runtime/dispatch.cpp.
include(CheckCXXSourceCompiles)

# What a level compiles: kernels around the packed GEMM, the only ones of neon_bf16; those that gain from a tile unit,
# the only ones of amx_bf16; those that gain from instructions on bfloat16, the only ones of avx512_bf16; all others;
# and what is composed of others, which the portable level compiles for every level (cpu/runtime/kernels.h). Paths in cpp.
set(transnext_gemm_sources
  cpu/gemm/linear.cpp
  cpu/gemm/packed_gemm.cpp
  cpu/gemm/patch_embed.cpp
  cpu/glu/convolutional_glu.cpp)
set(transnext_tile_sources
  ${transnext_gemm_sources}
  cpu/attention/aggregated_attention.cpp
  cpu/gemm/weight_gradient.cpp)
set(transnext_bfloat16_sources
  ${transnext_gemm_sources}
  cpu/glu/conv_glu.cpp
  cpu/pool/gelu_pool.cpp)
set(transnext_level_sources
  ${transnext_bfloat16_sources}
  cpu/attention/aggregated_attention.cpp
  cpu/attention/aggregated_attention_backward.cpp
  cpu/attention/deformable_attention.cpp
  cpu/attention/deformable_attention_backward.cpp
  cpu/attention/window.cpp
  cpu/bias/position_bias_table.cpp
  cpu/gemm/pooled_linear.cpp
  cpu/gemm/weight_gradient.cpp
  cpu/norm/add_layer_norm.cpp
  cpu/norm/token_norm.cpp
  cpu/runtime/fingerprint.cpp)
set(transnext_cpu_sources
  ${transnext_level_sources}
  cpu/attention/attention_branch.cpp)

# transnext_check_cpu_flags(<result> <flags> <statements>): can the compiler build for this instruction set?
function(transnext_check_cpu_flags result flags statements)
  set(CMAKE_REQUIRED_FLAGS "${flags}")
  check_cxx_source_compiles("#include <immintrin.h>\nint main() { ${statements} }" ${result})
endfunction()

# The instruction set that every processor of the family has: on 64-bit ARM that is NEON, with 128-bit vectors.
check_cxx_source_compiles("#if !defined(__aarch64__) || !defined(__ARM_NEON)
                           #error
                           #endif
                           int main() { return 0; }" transnext_has_neon)
if(transnext_has_neon)
  set(transnext_cpu_levels neon)
  # Products of bfloat16 (FEAT_BF16): Neoverse V1, N2 and later, Apple's M2 and later.
  set(transnext_neon_bf16_flags -march=armv8.2-a+bf16)
  set(CMAKE_REQUIRED_FLAGS ${transnext_neon_bf16_flags})
  check_cxx_source_compiles("#include <arm_neon.h>
                             float32x4_t add(float32x4_t sum, bfloat16x8_t a) { return vbfmmlaq_f32(sum, a, a); }
                             int main() { return 0; }" transnext_can_build_neon_bf16)
  unset(CMAKE_REQUIRED_FLAGS)
  if(transnext_can_build_neon_bf16)
    list(APPEND transnext_cpu_levels neon_bf16)
  endif()
else()
  set(transnext_cpu_levels baseline)
endif()

set(transnext_avx2_flags -mavx2 -mfma -mf16c)
set(transnext_avx512_flags ${transnext_avx2_flags} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(transnext_avx512_bf16_flags ${transnext_avx512_flags} -mavx512bf16)
set(transnext_amx_bf16_flags ${transnext_avx512_bf16_flags})
list(JOIN transnext_avx2_flags " " flags)
transnext_check_cpu_flags(transnext_can_build_avx2 "${flags}" "
  __m256 a = _mm256_cvtph_ps(_mm_setzero_si128());
  a = _mm256_fmadd_ps(a, a, a);
  return __builtin_cpu_supports(\"avx2\") ? (int)_mm256_cvtss_f32(a) : 0;")
list(JOIN transnext_avx512_flags " " flags)
transnext_check_cpu_flags(transnext_can_build_avx512 "${flags}" "
  __m512 a = _mm512_setzero_ps();
  return __builtin_cpu_supports(\"avx512vl\") ? (int)_mm512_reduce_add_ps(_mm512_fmadd_ps(a, a, a)) : 0;")
list(JOIN transnext_avx512_bf16_flags " " flags)
transnext_check_cpu_flags(transnext_can_build_avx512_bf16 "${flags}" "
  __m512 a = _mm512_setzero_ps();
  __m512bh b = _mm512_cvtne2ps_pbh(a, a);
  a = _mm512_dpbf16_ps(a, b, b);
  return __builtin_cpu_supports(\"avx512bf16\") ? (int)_mm512_reduce_add_ps(a) : 0;")

# (The tile unit's instructions are written as assembler: cpu/simd/tiles.h.)
list(JOIN transnext_amx_bf16_flags " " flags)
transnext_check_cpu_flags(transnext_can_build_amx_bf16 "${flags}" "
  __m512 a = _mm512_setzero_ps();
  __m512bh b = _mm512_cvtne2ps_pbh(a, a);
  asm volatile(\"tdpbf16ps %tmm2, %tmm1, %tmm0; tilerelease\");
  return __builtin_cpu_supports(\"avx512bf16\") ? (int)_mm512_reduce_add_ps(_mm512_dpbf16_ps(a, b, b)) : 0;")

set(TRANSNEXT_CPU_LEVELS avx2 avx512 avx512_bf16 amx_bf16 CACHE STRING
    "CPU instruction sets beside the portable one, as far as the compiler has them")
set(wanted_levels ${TRANSNEXT_CPU_LEVELS})
# These have kernels for bfloat16 alone, or only some of them.
if("amx_bf16" IN_LIST wanted_levels)
  list(APPEND wanted_levels avx512_bf16)
endif()
if("avx512_bf16" IN_LIST wanted_levels)
  list(APPEND wanted_levels avx512)
endif()
foreach(level avx2 avx512 avx512_bf16 amx_bf16)
  if(level IN_LIST wanted_levels AND transnext_can_build_${level})
    list(APPEND transnext_cpu_levels ${level})
  endif()
endforeach()
# If only processors without AVX2, from before 2013, need the portable level, compile time matters more than its
# speed. The other levels need -O3: docs/notes/2026-11-29-build-time.md.
if("avx2" IN_LIST transnext_cpu_levels AND CMAKE_BUILD_TYPE STREQUAL "Release")
  set(transnext_baseline_flags -O1)
endif()

# amx_bf16 with tiles in plain C++ (cpu/simd/emulated_tiles.h), for tests on any machine.
option(TRANSNEXT_EMULATED_TILES "Build the level amx_emulated as well, for tests" OFF)
if("avx2" IN_LIST transnext_cpu_levels)
  set(transnext_amx_emulated_flags ${transnext_avx2_flags})
endif()
if(TRANSNEXT_EMULATED_TILES)
  list(APPEND transnext_cpu_levels amx_emulated)
endif()
set(transnext_amx_bf16_definitions TRANSNEXT_TILES=1)
set(transnext_amx_emulated_definitions TRANSNEXT_TILES=1 TRANSNEXT_EMULATED_TILES=1)

function(transnext_add_cpu_level level)
  set(sources ${transnext_level_sources})
  if(level MATCHES "^amx")
    set(sources ${transnext_tile_sources})
  elseif(level STREQUAL "neon_bf16")
    set(sources ${transnext_gemm_sources})
  elseif(level STREQUAL "avx512_bf16")
    set(sources ${transnext_bfloat16_sources} cpu/runtime/dot_rate.cpp)
  elseif(level MATCHES "^(baseline|neon)$")
    set(sources ${transnext_cpu_sources})
  endif()
  add_library(transnext_cpu_${level} OBJECT ${sources})
  target_link_libraries(transnext_cpu_${level} PRIVATE transnext_common)
  target_compile_definitions(transnext_cpu_${level} PRIVATE TRANSNEXT_CPU_LEVEL=${level}
                                                               ${transnext_${level}_definitions})
  # These two flags change no result; they let comparisons and square roots vectorise.
  target_compile_options(transnext_cpu_${level} PRIVATE ${ARGN} -fno-math-errno -fno-trapping-math)
  target_link_libraries(_cpp PRIVATE transnext_cpu_${level})
  string(TOUPPER ${level} upper_level)
  target_compile_definitions(transnext_host PRIVATE TRANSNEXT_HAS_${upper_level}=1)
endfunction()
