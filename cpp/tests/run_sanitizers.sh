#!/usr/bin/env bash
# Builds the CPU kernels and a driver that runs all of them (run_kernels.cpp), without Python and torch, under
# AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer, and runs them.
#
#   cpp/tests/run_sanitizers.sh                 the widest vectors that this processor has, then a small set of cases
#                                               under AddressSanitizer for AVX2, with tiles emulated, and the portable level
#   cpp/tests/run_sanitizers.sh level ...       everything for these
#
# Builds go to build/sanitize-* (or under $TRANSNEXT_SANITIZE_BUILD) and are kept for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build="${TRANSNEXT_SANITIZE_BUILD:-build}"

widest_level() {
  local flags=" $(grep -m1 '^flags' /proc/cpuinfo 2> /dev/null || true) "
  if [[ $flags == *" avx512_bf16 "* ]]; then echo avx512_bf16
  elif [[ $flags == *" avx512vl "* ]]; then echo avx512
  elif [[ $flags == *" avx2 "* && $flags == *" fma "* ]]; then echo avx2
  else echo baseline; fi
}

# run_levels NAME SANITIZERS CASES COMPILER_FLAGS LEVEL...
run_levels() {
  local directory="$build/sanitize-$1" sanitizers="$2" cases="$3" flags="$4" level
  shift 4
  cmake -S cpp/tests -B "$directory" -G Ninja -DTRANSNEXT_SANITIZE="$sanitizers" -DCMAKE_CXX_FLAGS="$flags" > /dev/null
  cmake --build "$directory" --target "${@/#/run_kernels_}"
  for level in "$@"; do
    echo "== $sanitizers, $level, $cases cases"
    # (No detect_stack_use_after_return: GCC's replacement frames are not aligned for 64-byte vectors.)
    TSAN_OPTIONS=halt_on_error=1 "$directory/run_kernels_$level" "$cases"
  done
}

levels=("$@")
narrower=()
if [[ $# -eq 0 ]]; then
  levels=("$(widest_level)")
  # (No sanitizer sees what the real tile unit reads and writes.)
  [[ ${levels[0]} == baseline ]] || narrower+=(amx_emulated baseline)
fi
run_levels address address,undefined all "" "${levels[@]}"
run_levels thread thread all "" "${levels[@]}"
cmake --build "$build/sanitize-thread" --target team
echo "== thread, loops of a team"
TSAN_OPTIONS=halt_on_error=1 "$build/sanitize-thread/team"
# With checks as calls (GCC only) compilation is twice as fast; the few cases run in seconds.
outlined=--param=asan-instrumentation-with-call-threshold=0
"${CXX:-c++}" $outlined -fsyntax-only -x c++ /dev/null 2> /dev/null || outlined=
[[ ${#narrower[@]} -eq 0 ]] || run_levels narrower address few "$outlined" "${narrower[@]}"
