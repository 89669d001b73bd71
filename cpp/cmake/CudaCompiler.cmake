# Decides whether the CUDA kernels are built and for which GPUs, and enables the language if they are. Sets
# transnext_with_cuda, with it CMAKE_CUDA_ARCHITECTURES and transnext_architectures_reason; if it is false,
# transnext_cuda_reason says why.
include(CudaArchitectures)
set(transnext_with_cuda FALSE)
set(transnext_cuda_reason "TRANSNEXT_CUDA=OFF")
set(minimum_nvcc 11.8)

if(NOT TRANSNEXT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "transnext: TRANSNEXT_CUDA must be AUTO, ON or OFF, got '${TRANSNEXT_CUDA}'")
endif()

# Sets `nvcc` in the caller: CMake's own setting, CUDACXX, or the compiler found.
macro(transnext_find_nvcc)
  if(CMAKE_CUDA_COMPILER)
    set(nvcc ${CMAKE_CUDA_COMPILER})
  elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
    set(nvcc $ENV{CUDACXX})
  else()
    find_program(TRANSNEXT_NVCC nvcc
                 PATHS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
    set(nvcc ${TRANSNEXT_NVCC})
  endif()
  if(nvcc AND NOT IS_ABSOLUTE ${nvcc})
    find_program(TRANSNEXT_NVCC_PATH ${nvcc})
    if(TRANSNEXT_NVCC_PATH)
      set(nvcc ${TRANSNEXT_NVCC_PATH})
    endif()
  endif()
endmacro()

# A compiler that is found may still be broken (no host compiler that it accepts, an incomplete installation). A
# separate test program detects that, whereas enable_language would abort this project.
function(transnext_probe_nvcc nvcc failed)
  set(probe ${CMAKE_BINARY_DIR}/cuda_probe)
  file(WRITE ${probe}/probe.cu
       "#include <cuda_runtime.h>\n"
       "#include <string>\n"
       "__global__ void probe() {}\n"
       "int main() { probe<<<1, 1>>>(); return static_cast<int>(std::string(\"probe\").size()); }\n")
  set(host "")
  if(CMAKE_CUDA_HOST_COMPILER)
    set(host -ccbin ${CMAKE_CUDA_HOST_COMPILER})
  elseif(NOT "$ENV{CUDAHOSTCXX}" STREQUAL "")
    set(host -ccbin $ENV{CUDAHOSTCXX})
  endif()
  separate_arguments(flags UNIX_COMMAND "$ENV{CUDAFLAGS} ${CMAKE_CUDA_FLAGS}")
  execute_process(COMMAND ${nvcc} ${host} ${flags} -std=c++17 -o ${probe}/probe ${probe}/probe.cu
                  OUTPUT_FILE ${probe}/build.log ERROR_FILE ${probe}/build.log RESULT_VARIABLE status)
  set(${failed} ${status} PARENT_SCOPE)
endfunction()

# Sets `problem` in the caller: empty if there is a compiler, `nvcc`, that works.
macro(transnext_check_nvcc)
  set(problem "")
  transnext_find_nvcc()
  if(NOT nvcc)
    set(problem "nvcc is not on PATH and CUDACXX is not set")
  elseif(NOT EXISTS ${nvcc})
    set(problem "${nvcc} does not exist")
  else()
    execute_process(COMMAND ${nvcc} --version RESULT_VARIABLE failed
                    OUTPUT_VARIABLE banner ERROR_VARIABLE banner)
    string(REGEX MATCH "V([0-9]+\\.[0-9]+)" _ "${banner}")
    set(version ${CMAKE_MATCH_1})
    if(failed OR NOT version)
      set(problem "${nvcc} --version fails")
    elseif(version VERSION_LESS minimum_nvcc)
      set(problem "${nvcc} is version ${version}, ${minimum_nvcc} or newer is needed")
    else()
      transnext_probe_nvcc(${nvcc} failed)
      if(failed)
        set(problem "${nvcc} cannot build a test program, see ${CMAKE_BINARY_DIR}/cuda_probe")
      endif()
    endif()
  endif()
endmacro()

if(NOT TRANSNEXT_CUDA STREQUAL "OFF")
  transnext_check_nvcc()
  if(problem STREQUAL "")
    set(transnext_with_cuda TRUE)
    transnext_choose_architectures(${nvcc})
    set(CMAKE_CUDA_COMPILER ${nvcc} CACHE FILEPATH "CUDA compiler")
    enable_language(CUDA)
  elseif(TRANSNEXT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "transnext: TRANSNEXT_CUDA=ON, but no CUDA compiler: ${problem}. Install the "
                        "CUDA toolkit, point CUDACXX at its nvcc, or build with -DTRANSNEXT_CUDA=OFF.")
  else()
    set(transnext_cuda_reason "no CUDA compiler: ${problem}")
  endif()
endif()
