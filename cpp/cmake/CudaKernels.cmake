# Compiles the CUDA kernels into _cpp, each group for the GPUs that are worth the compile time.
#
# - Head dim 24, of the published models: machine code for every architecture chosen.
# - The other head dims, which have as many kernels again: for the earliest of each major version, whose
#   machine code runs on the later ones.
# - bfloat16 and TF32 of the attention: from compute capability 8.0 on. 7.5 has no units for them, so
#   these kernels would be slow there and take two thirds of the compile time.
#
# From 8.0 on one PTX serves all architectures of a group (transnext_generate_code). conv_glu's backward has two: in
# the registers of 2048 threads it would spill on 12.0.
#
# Groups for the same GPUs are one object.

# transnext_add_cuda_object(<name> <options> <groups> <source>...): options are nvcc's, groups is
# TRANSNEXT_KERNELS of cuda/instances, 0 where there are none.
function(transnext_add_cuda_object name options groups)
  add_library(${name} OBJECT ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES OFF CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                                           CUDA_VISIBILITY_PRESET hidden)
  target_compile_options(${name} PRIVATE ${options})
  if(groups)
    target_compile_definitions(${name} PRIVATE TRANSNEXT_KERNELS=${groups})
  endif()
  target_link_libraries(${name} PRIVATE transnext_common)
  target_link_libraries(_cpp PRIVATE ${name})
endfunction()

function(transnext_add_grouped_kernels name)
  transnext_one_of_each_major("${CMAKE_CUDA_ARCHITECTURES}" one_of_each)
  transnext_from_80("${CMAKE_CUDA_ARCHITECTURES}" from_80)
  transnext_from_80("${one_of_each}" one_of_each_from_80)
  transnext_generate_code("${CMAKE_CUDA_ARCHITECTURES}" options_1)
  transnext_generate_code("${from_80}" options_2)
  transnext_generate_code("${one_of_each}" options_4)
  transnext_generate_code("${one_of_each_from_80}" options_8)
  foreach(group 1 2 4 8)
    set(options "${options_${group}}")
    set(groups 0)
    foreach(same 1 2 4 8)
      if(options AND options STREQUAL "${options_${same}}")
        math(EXPR groups "${groups} + ${same}")
        set(options_${same} "")
      endif()
    endforeach()
    if(options)
      transnext_add_cuda_object(transnext_cuda_${name}_${groups} "${options}" ${groups} cuda/compiled/${name}.cu)
    endif()
  endforeach()
endfunction()

transnext_add_grouped_kernels(aggregated_attention)
transnext_add_grouped_kernels(aggregated_attention_backward)
transnext_generate_code("${CMAKE_CUDA_ARCHITECTURES}" options)
transnext_add_cuda_object(transnext_cuda "${options}" 0
  cuda/compiled/add_layer_norm.cu
  cuda/compiled/deformable_attention.cu
  cuda/compiled/gelu_pool.cu
  cuda/compiled/position_bias_table.cu
  cuda/compiled/window.cu)
transnext_generate_code_by_threads("${CMAKE_CUDA_ARCHITECTURES}" options)
transnext_add_cuda_object(transnext_cuda_conv_glu "${options}" 0 cuda/compiled/conv_glu.cu)
# The launches: host code, which also links the CUDA runtime.
target_sources(_cpp PRIVATE cuda/compiled/run.cu)
list(GET CMAKE_CUDA_ARCHITECTURES 0 architecture)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " architectures)
set_target_properties(_cpp PROPERTIES CUDA_ARCHITECTURES ${architecture} CUDA_RUNTIME_LIBRARY Static CUDA_STANDARD 17
                                      CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden)
target_compile_definitions(_cpp PRIVATE TRANSNEXT_WITH_CUDA=1 TRANSNEXT_CUDA_ARCHITECTURES="${architectures}")
