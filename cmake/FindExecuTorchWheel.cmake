# Finds the C++ libraries and headers in the executorch wheel: ExecuTorch::runtime.
# SPDX-License-Identifier: Apache-2.0
#
# ExecuTorchWheel_ROOT is the wheel's package folder (site-packages/executorch). Without it, the
# Python that CMake finds is asked where its executorch is. The wheel's own CMake package would do as
# well, but only from CMake 3.28 on.
#
# The version has to be the one asked for: the libraries promise no ABI.
if(NOT ExecuTorchWheel_ROOT)
  find_package(Python COMPONENTS Interpreter QUIET)
  if(Python_Interpreter_FOUND)
    set(ask "import importlib.util as u; s = u.find_spec('executorch')"
            "print(*(s.submodule_search_locations if s else []), sep=';', end='')")
    execute_process(COMMAND ${Python_EXECUTABLE} -c "${ask}"
                    OUTPUT_VARIABLE ExecuTorchWheel_CANDIDATES ERROR_QUIET)
  endif()
else()
  set(ExecuTorchWheel_CANDIDATES ${ExecuTorchWheel_ROOT})
endif()

set(ExecuTorchWheel_FOLDER "")
foreach(folder IN LISTS ExecuTorchWheel_CANDIDATES)
  if(EXISTS ${folder}/lib/libexecutorch.so AND EXISTS ${folder}/version.py
     AND EXISTS ${folder}/include/executorch/runtime/executor/program.h)
    set(ExecuTorchWheel_FOLDER ${folder})
    file(STRINGS ${folder}/version.py version_line REGEX "^__version__" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" ExecuTorchWheel_VERSION "${version_line}")
    break()
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ExecuTorchWheel
  REQUIRED_VARS ExecuTorchWheel_FOLDER VERSION_VAR ExecuTorchWheel_VERSION)

if(ExecuTorchWheel_FOUND AND NOT TARGET ExecuTorch::runtime)
  set(include ${ExecuTorchWheel_FOLDER}/include)
  set(lib ${ExecuTorchWheel_FOLDER}/lib)
  add_library(ExecuTorch::runtime SHARED IMPORTED)
  set_target_properties(ExecuTorch::runtime PROPERTIES
    IMPORTED_LOCATION ${lib}/libexecutorch.so
    INTERFACE_COMPILE_DEFINITIONS
      "C10_USING_CUSTOM_GENERATED_MACROS;ET_EVENT_TRACER_ENABLED;ET_USE_THREADPOOL")
  target_include_directories(ExecuTorch::runtime SYSTEM INTERFACE
    ${include} ${include}/executorch/runtime/core/portable_type/c10)
  # Kernels and delegates register themselves when they are loaded; no symbol of theirs is used.
  # Those for quantized models are on their own: see shira_runtime/engine.py.
  add_library(ExecuTorch::kernels INTERFACE IMPORTED)
  target_link_libraries(ExecuTorch::kernels INTERFACE
    -Wl,--push-state,--no-as-needed
    ${lib}/libexecutorch_threadpool.so
    ${lib}/libexecutorch_kernels_optimized.so
    ${lib}/libexecutorch_backend_xnnpack.so
    -Wl,--pop-state)
  add_library(ExecuTorch::quantized_kernels INTERFACE IMPORTED)
  # One word: CMake would leave out flags that it has seen in ExecuTorch::kernels already.
  target_link_libraries(ExecuTorch::quantized_kernels INTERFACE
    -Wl,--push-state,--no-as-needed,${lib}/libexecutorch_kernels_quantized.so,--pop-state)
endif()
