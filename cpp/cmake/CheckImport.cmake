# Fails if the built module cannot be loaded: cmake -DPYTHON=... -DMODULE=... -P CheckImport.cmake. Only the
# interpreter that it is built for is needed: the module depends on neither its package nor torch.
set(load "
import importlib.util, sys
spec = importlib.util.spec_from_file_location('_cpp', sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))")
execute_process(COMMAND ${PYTHON} -I -S -c "${load}" ${MODULE}
                RESULT_VARIABLE status OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(NOT status EQUAL 0)
  string(REGEX REPLACE ".*\n([^\n]+)\n*$" "\\1" reason "${said}")
  if(reason STREQUAL "")
    set(reason "${status}")
  endif()
  message(FATAL_ERROR "transnext: ${MODULE} was built, but ${PYTHON} cannot load it: ${reason}")
endif()
