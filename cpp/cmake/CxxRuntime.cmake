# Sets transnext_cxx_runtime, the libraries that C++ code must be linked with beyond the compiler's defaults: none for
# g++ and clang++, the C++ runtime for gcc and clang, which also compile C++. Without it a module links silently, but
# no process can load it.
include(CheckCXXSourceCompiles)

function(transnext_find_cxx_runtime result)
  foreach(runtime none stdc++ c++)
    set(CMAKE_REQUIRED_LIBRARIES "")
    if(NOT runtime STREQUAL "none")
      set(CMAKE_REQUIRED_LIBRARIES ${runtime} m)
    endif()
    string(MAKE_C_IDENTIFIER "transnext_links_with_${runtime}" links)
    check_cxx_source_compiles("
      #include <stdexcept>
      #include <string>
      int main(int count, char** arguments) {
        try {
          if (count > 1) throw std::runtime_error(std::string(arguments[0]) + arguments[1]);
        } catch (const std::exception& error) {
          return error.what()[0];
        }
        return 0;
      }" ${links})
    if(${links})
      set(${result} "${CMAKE_REQUIRED_LIBRARIES}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "transnext: ${CMAKE_CXX_COMPILER} cannot link a C++ program, neither by itself nor with "
                      "libstdc++ or libc++; CXX=g++ or CXX=clang++ chooses another compiler")
endfunction()

transnext_find_cxx_runtime(transnext_cxx_runtime)
