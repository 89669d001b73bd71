# Decides whether the CUDA kernels are built, and for what, and enables the language if they are.
# Sets transnext_with_cuda; if that is false, transnext_cuda_reason says why.
set(transnext_with_cuda FALSE)
set(transnext_cuda_reason "TRANSNEXT_CUDA=OFF")
set(minimum_nvcc 11.8)

if(NOT TRANSNEXT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "transnext: TRANSNEXT_CUDA must be AUTO, ON or OFF, got '${TRANSNEXT_CUDA}'")
endif()

# Sets `nvcc` in the caller: what CMake was told, CUDACXX, or what is found.
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

# A compiler that is found may still be broken (no host compiler that it accepts, half an
# installation): building a one-file project aside shows it, where enable_language would end this one.
function(transnext_probe_nvcc nvcc failed)
  set(probe ${CMAKE_BINARY_DIR}/cuda_probe)
  file(WRITE ${probe}/CMakeLists.txt
       "cmake_minimum_required(VERSION 3.24)\n"
       "project(probe LANGUAGES CXX CUDA)\n"
       "add_library(probe STATIC probe.cu)\n")
  file(WRITE ${probe}/probe.cu
       "#include <cuda_runtime.h>\n"
       "__global__ void probe() {}\n"
       "void launch() { probe<<<1, 1>>>(); }\n")
  set(options -DCMAKE_CUDA_COMPILER=${nvcc} -DCMAKE_CUDA_ARCHITECTURES=75
              -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER})
  if(CMAKE_MAKE_PROGRAM)
    list(APPEND options -DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM})
  endif()
  if(CMAKE_CUDA_HOST_COMPILER)
    list(APPEND options -DCMAKE_CUDA_HOST_COMPILER=${CMAKE_CUDA_HOST_COMPILER})
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${probe} -B ${probe}/build -G ${CMAKE_GENERATOR} ${options}
                  OUTPUT_FILE ${probe}/configure.log ERROR_FILE ${probe}/configure.log
                  RESULT_VARIABLE status)
  if(status EQUAL 0)
    execute_process(COMMAND ${CMAKE_COMMAND} --build ${probe}/build
                    OUTPUT_FILE ${probe}/build.log ERROR_FILE ${probe}/build.log
                    RESULT_VARIABLE status)
  endif()
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

# Machine code for every listed GPU generation that this nvcc knows, PTX of the newest for those to
# come.
function(transnext_default_architectures nvcc result)
  execute_process(COMMAND ${nvcc} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
  foreach(architecture 75 80 86 89 90 100 120)
    if(known MATCHES "sm_${architecture}[^0-9]")
      list(APPEND architectures ${architecture}-real)
      set(newest ${architecture})
    endif()
  endforeach()
  set(${result} ${architectures} ${newest}-virtual PARENT_SCOPE)
endfunction()

if(NOT TRANSNEXT_CUDA STREQUAL "OFF")
  transnext_check_nvcc()
  if(problem STREQUAL "")
    set(transnext_with_cuda TRUE)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
      transnext_default_architectures(${nvcc} CMAKE_CUDA_ARCHITECTURES)
    endif()
    set(CMAKE_CUDA_COMPILER ${nvcc} CACHE FILEPATH "CUDA compiler")
    enable_language(CUDA)
  elseif(TRANSNEXT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "transnext: TRANSNEXT_CUDA=ON, but no CUDA compiler: ${problem}. Install the "
                        "CUDA toolkit, point CUDACXX at its nvcc, or build with -DTRANSNEXT_CUDA=OFF.")
  else()
    set(transnext_cuda_reason "no CUDA compiler: ${problem}")
  endif()
endif()
