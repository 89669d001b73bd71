# The CPU kernels are compiled once per instruction set ("level"), each time in its own namespace, and
# the one to run is chosen at run time. A new level is a call of transnext_add_cpu_level and an entry in
# cpu/dispatch.cpp.
include(CheckCXXSourceCompiles)

set(transnext_cpu_sources
  cpp/cpu/aggregated_attention.cpp
  cpp/cpu/aggregated_attention_backward.cpp
  cpp/cpu/conv_glu.cpp
  cpp/cpu/gelu_pool.cpp
  cpp/cpu/position_bias_table.cpp
  cpp/cpu/window.cpp)

set(CMAKE_REQUIRED_FLAGS "-mavx2 -mfma -mf16c")
check_cxx_source_compiles("
  #include <immintrin.h>
  int main() {
    __m256 a = _mm256_cvtph_ps(_mm_setzero_si128());
    a = _mm256_fmadd_ps(a, a, a);
    return __builtin_cpu_supports(\"avx2\") ? (int)_mm256_cvtss_f32(a) : 0;
  }" transnext_can_build_avx2)
unset(CMAKE_REQUIRED_FLAGS)

function(transnext_add_cpu_level level)
  add_library(transnext_cpu_${level} OBJECT ${transnext_cpu_sources})
  target_link_libraries(transnext_cpu_${level} PRIVATE transnext_common)
  target_compile_definitions(transnext_cpu_${level} PRIVATE TRANSNEXT_CPU_LEVEL=${level})
  # These two change no result: they let comparisons and square roots vectorise.
  target_compile_options(transnext_cpu_${level} PRIVATE ${ARGN} -fno-math-errno -fno-trapping-math)
  target_link_libraries(_cpp PRIVATE transnext_cpu_${level})
  string(TOUPPER ${level} upper_level)
  target_compile_definitions(_cpp PRIVATE TRANSNEXT_HAS_${upper_level}=1)
endfunction()
