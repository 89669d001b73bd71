#!/usr/bin/env bash
# Builds the whole binding module (everything that Python calls, kernels of the portable level and AVX2 included) under
# AddressSanitizer and UndefinedBehaviorSanitizer, and runs the tests of hostile arguments with it: tensors that are
# more or less than their memory, sizes and maps that lie, NaN, custom operators called past every check.
#
#   cpp/tests/run_module_sanitizers.sh                    these tests
#   cpp/tests/run_module_sanitizers.sh PYTEST_ARGUMENT... others
#
# Needs GCC, CMake, Ninja, and a Python ($PYTHON, else python3) with pybind11, torch and the packages installed. The
# build goes to build/sanitize-module (or under $TRANSNEXT_SANITIZE_BUILD) and is kept for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build="$(realpath -m "${TRANSNEXT_SANITIZE_BUILD:-build}")/sanitize-module"
python="${PYTHON:-python3}"
compiler="${CXX:-c++}"
tests=("$@")
[[ $# -gt 0 ]] || tests=(tests/ops/test_ops_hostile.py tests/ops/test_ops_bias_maps.py tests/cpp/test_cpp_arguments.py)

# Python is not instrumented, so the sanitizer's library comes first into the process, and libstdc++ with it, whose
# exceptions it watches.
preload=""
for library in libasan.so libstdc++.so; do
  path="$("$compiler" -print-file-name="$library")"
  [[ $path == /* ]] || { echo "$compiler: has no shared $library, needs GCC (CXX=g++)" >&2; exit 1; }
  preload="$preload $path"
done

cmake -S . -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DPython_EXECUTABLE="$(command -v "$python")" \
  -DTRANSNEXT_CUDA=OFF -DTRANSNEXT_CPU_LEVELS=avx2 -DTRANSNEXT_SANITIZE=address,undefined \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build" > /dev/null
cmake --build "$build" --target _cpp

# Leaks are Python's and torch's own. What claims more memory than there is gets an exception, as without a sanitizer.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=16384
export UBSAN_OPTIONS=print_stacktrace=1
module="$(ls "$build"/_cpp*.so)"
levels=(baseline)
[[ " $(grep -m1 '^flags' /proc/cpuinfo 2> /dev/null || true) " == *" avx2 "* ]] && levels+=(avx2)
# run LEVEL ARGUMENT...
run() {
  local level="$1"
  shift
  TRANSNEXT_CPU_LEVEL="$level" LD_PRELOAD="${preload# }" "$python" cpp/tests/pytest_with_module.py "$module" "$@"
}
for level in "${levels[@]}"; do
  echo "== address,undefined, whole module, $level"
  report="$(run "$level" --overrun 2>&1 || true)"  # first, that a fault is seen
  [[ $report == *"AddressSanitizer: heap-buffer-overflow"*"transnext::cpu::$level"* ]] || {
    printf '%s\n' "$report" "$module: does not report an overrun" >&2
    exit 1
  }
  # (--capture=sys, since a report goes to the process's own stderr.)
  run "$level" -q -p no:cacheprovider --capture=sys "${tests[@]}"
done
