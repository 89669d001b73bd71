#!/usr/bin/env bash
# Cross-compiles the native tests of the CPU kernels for 64-bit ARM and runs them under qemu's emulation of its user
# mode: the level `neon_bf16`, and of `neon`, which every such processor has, exp, gelu and the packed GEMM or, with all
# cases, everything. Needs CMake, Ninja and what Debian and Ubuntu call g++-aarch64-linux-gnu and qemu-user (or
# qemu-user-static).
#
#   cpp/tests/run_aarch64.sh [all|few]    every case of run_kernels, or a few of them (default)
#
# The build goes to build/aarch64 (or under $TRANSNEXT_AARCH64_BUILD) and is kept for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cases="${1:-few}"
directory="${TRANSNEXT_AARCH64_BUILD:-build/aarch64}"

found() { command -v "$1" || command -v "$2" || { echo "run_aarch64.sh: $1 was not found, $3 has it" >&2; exit 1; }; }
compiler="$(found aarch64-linux-gnu-g++ aarch64-linux-gnu-g++ "Debian's g++-aarch64-linux-gnu")"
qemu="$(found qemu-aarch64 qemu-aarch64-static "Debian's qemu-user")"

cmake -S cpp/tests -B "$directory" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
      -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_EXE_LINKER_FLAGS=-static > /dev/null
levels=(neon_bf16)
[[ $cases == few ]] || levels+=(neon)
cmake --build "$directory" --target math_accuracy_neon products_neon "${levels[@]/#/run_kernels_}"
run() {
  echo "== aarch64: $*"
  "$qemu" "$directory/$1" "${@:2}"
}
run math_accuracy_neon 997
run products_neon
for level in "${levels[@]}"; do run "run_kernels_$level" "$cases"; done
