"""The native tests of cpp/tests: error bounds of exp and GELU; all kernels, and the whole binding
module with hostile arguments, under sanitizers; the kernels, and instructions counted, for Arm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_cpp = pytest.importorskip("transnext_ops._cpp")

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "cpp" / "tests"
# CMake and Ninja may be packages of this environment, which need not be on PATH.
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
TOOLS = [shutil.which(tool, path=PATH) for tool in ("cmake", "ninja")]
needs_tools = pytest.mark.skipif(
    not (COMPILER and all(TOOLS) and SOURCES.is_dir()),
    reason="needs a C++ compiler, cmake, ninja and the sources in cpp/tests",
)


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": PATH, **environment},
    )
    assert result.returncode == 0, result.stdout[-8000:]
    return result.stdout


@pytest.fixture(scope="session")
def native_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that builds a program of cpp/tests, once, and returns its path."""
    build = tmp_path_factory.mktemp("native")

    def program(name: str) -> Path:
        if not (build / "build.ninja").exists():
            run("cmake", "-S", SOURCES, "-B", build, "-G", "Ninja")
        run("cmake", "--build", build, "--target", name)
        return build / name

    return program


@needs_tools
@pytest.mark.parametrize(
    "level", [name for name in _cpp.available_cpu_levels() if not name.startswith("amx")]
)
def test_exp_and_gelu_keep_their_stated_error_bounds(
    native_program: Callable[[str], Path], level: str
) -> None:
    report = run(native_program(f"math_accuracy_{level}"))
    print(report)
    assert "EXCEEDED" not in report
    assert report.count("infinities and NaN: right") == 2
    assert "infinity and NaN: right" in report


@needs_tools
def test_threads_of_a_team_do_each_task_once(native_program: Callable[[str], Path]) -> None:
    assert "all loops ran" in run(native_program("team"))


@needs_tools
@pytest.mark.long
@pytest.mark.slow
def test_all_kernels_are_clean_under_the_sanitizers(tmp_path: Path) -> None:
    report = run(SOURCES / "run_sanitizers.sh", TRANSNEXT_SANITIZE_BUILD=str(tmp_path))
    narrower = {"amx_emulated", "baseline"} if "avx2" in _cpp.available_cpu_levels() else set()
    for level in narrower:
        assert f"== address, {level}, few cases" in report
    assert report.count("all kernels ran") == 2 + len(narrower), report[-8000:]
    assert "all loops ran" in report


def has_shared_sanitizer() -> bool:
    """Whether the compiler is GCC with a sanitizer that goes into a Python without one."""
    if not COMPILER or sys.platform != "linux":
        return False
    shown = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    )
    return Path(shown.stdout.strip()).is_absolute()


@needs_tools
@pytest.mark.skipif(not has_shared_sanitizer(), reason="needs GCC's libasan.so")
@pytest.mark.long
@pytest.mark.slow
def test_the_whole_module_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    """Hostile arguments and tensors in other guises, each in its right place on the way in."""
    pytest.importorskip("pybind11")
    report = run(
        SOURCES / "run_module_sanitizers.sh",
        TRANSNEXT_SANITIZE_BUILD=str(tmp_path),
        PYTHON=sys.executable,
        CXX=COMPILER or "",
    )
    levels = {"avx2", "baseline"} & set(_cpp.available_cpu_levels())
    assert report.count("== address,undefined, whole module") == len(levels), report[-8000:]
    assert len(re.findall(r"^\d{2,} passed", report, re.MULTILINE)) == len(levels), report[-8000:]
    assert "ERROR: AddressSanitizer" not in report
    assert "runtime error" not in report


CROSS = ("aarch64-linux-gnu-g++", ("qemu-aarch64", "qemu-aarch64-static"))


@needs_tools
@pytest.mark.skipif(
    not (shutil.which(CROSS[0]) and any(map(shutil.which, CROSS[1]))),
    reason="needs g++-aarch64-linux-gnu and qemu-user",
)
@pytest.mark.long
@pytest.mark.slow
def test_the_kernels_run_on_64_bit_arm(tmp_path: Path) -> None:
    report = run(SOURCES / "run_aarch64.sh", TRANSNEXT_AARCH64_BUILD=str(tmp_path))
    assert "== aarch64: run_kernels_neon_bf16 few" in report
    assert report.count("all kernels ran") == 1
    assert report.count("all products are right") == 1
    assert report.count("infinities and NaN: right") == 2
    assert "infinity and NaN: right" in report
    assert "EXCEEDED" not in report


def innermost_loops(assembly: str, function: str) -> list[list[str]]:
    """Return the instructions of every loop without a label inside, of functions so named."""
    loops: list[list[str]] = []
    label, body, inside = "", [], False
    for line in map(str.strip, assembly.splitlines()):
        if mark := re.fullmatch(r"([.\w]+):", line):
            inside = inside if mark[1].startswith(".L") else bool(re.search(function, mark[1]))
            label, body = mark[1], []
        elif inside and not line.startswith("."):
            body.append(line)
            if label and line.endswith(f"\t{label}"):
                loops.append(body)
                label, body = "", []
    return loops


@needs_tools
@pytest.mark.skipif(not shutil.which(CROSS[0]), reason=f"needs {CROSS[0]}")
@pytest.mark.slow
def test_a_tile_for_64_bit_arm_stays_in_its_registers() -> None:
    """Six rows by three vectors, a vector of each row at once, in the loop over the depth."""
    source = ROOT / "cpp" / "cpu" / "gemm" / "packed_gemm.cpp"
    folders = (f"-I{ROOT / 'cpp' / 'include'}", f"-I{ROOT / 'cpp'}")
    options = ("-std=c++17", "-O3", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math")
    level = ("-DTRANSNEXT_CPU_LEVEL=neon", "-DTRANSNEXT_ALL_TYPES=1")
    assembly = run(CROSS[0], *options, *level, *folders, "-S", source, "-o", "-")
    # Multiply-adds and vectors loaded follow from the tile; the rest is for the compiler to save.
    for name, products, loads, instructions in (
        ("f", 72, 6 + 4 * 3, 93),
        ("d", 36, 6 + 2 * 3, 54),
        ("NS_8BFloat16E", 72, 6 + 2 * 3, 106),
    ):
        loops = innermost_loops(assembly, f"multiply_tileILi6ELi3E{name}")
        assert loops, f"no loop of a tile of {name}"
        loop = max(loops, key=len)
        assert sum(line.startswith("fmla") for line in loop) == products, loop
        assert sum(len(re.findall(r"\bq\d+", line)) for line in loop) == loads, loop
        assert not [line for line in loop if line.startswith("st") or "sp" in line], loop
        assert len(loop) <= instructions, loop
