# Loads the module when it has been built, so that one that cannot be loaded fails the build and does not
# surprise whoever imports it. Not where this machine cannot: when cross-compiling, for other processors of
# Apple's, under sanitizers, whose runtime a program has to be started with.
set(flags "${CMAKE_CXX_FLAGS} ${CMAKE_MODULE_LINKER_FLAGS}")
if(TRANSNEXT_CHECK_IMPORT AND NOT CMAKE_CROSSCOMPILING AND NOT TRANSNEXT_SANITIZE AND NOT flags MATCHES "-fsanitize="
   AND (NOT CMAKE_OSX_ARCHITECTURES OR CMAKE_HOST_SYSTEM_PROCESSOR IN_LIST CMAKE_OSX_ARCHITECTURES))
  add_custom_command(TARGET _cpp POST_BUILD VERBATIM
    COMMAND ${CMAKE_COMMAND} -DPYTHON=${Python_EXECUTABLE} -DMODULE=$<TARGET_FILE:_cpp>
            -P ${CMAKE_CURRENT_LIST_DIR}/CheckImport.cmake)
endif()
