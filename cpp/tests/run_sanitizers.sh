#!/usr/bin/env bash
# Builds the CPU kernels and a driver that runs all of them (run_kernels.cpp), without Python and torch, under
# AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer, and runs them.
#
#   cpp/tests/run_sanitizers.sh [level ...]     default: the widest instruction set that this processor has
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

levels=("$@")
[[ ${#levels[@]} -gt 0 ]] || levels=("$(widest_level)")
for sanitizer in address,undefined thread; do
  directory="$build/sanitize-${sanitizer%%,*}"
  cmake -S cpp/tests -B "$directory" -G Ninja -DTRANSNEXT_SANITIZE="$sanitizer" > /dev/null
  cmake --build "$directory" --target "${levels[@]/#/run_kernels_}"
  for level in "${levels[@]}"; do
    echo "== $sanitizer, $level"
    # (No detect_stack_use_after_return: GCC places its stand-in frames without regard to 64-byte vectors.)
    TSAN_OPTIONS=halt_on_error=1 "$directory/run_kernels_$level"
  done
done
