# Loads the module after it is built, so that a module that cannot be loaded fails the build instead of the user's
# import. Skipped where this machine cannot load it: when cross-compiling, for other Apple processors, and under
# sanitizers, which need their runtime from the program's start.
set(flags "${CMAKE_CXX_FLAGS} ${CMAKE_MODULE_LINKER_FLAGS}")
if(TRANSNEXT_CHECK_IMPORT AND NOT CMAKE_CROSSCOMPILING AND NOT TRANSNEXT_SANITIZE AND NOT flags MATCHES "-fsanitize="
   AND (NOT CMAKE_OSX_ARCHITECTURES OR CMAKE_HOST_SYSTEM_PROCESSOR IN_LIST CMAKE_OSX_ARCHITECTURES))
  add_custom_command(TARGET _cpp POST_BUILD VERBATIM
    COMMAND ${CMAKE_COMMAND} -DPYTHON=${Python_EXECUTABLE} -DMODULE=$<TARGET_FILE:_cpp>
            -P ${CMAKE_CURRENT_LIST_DIR}/CheckImport.cmake)
endif()
