"""What CMake builds, and the one line in which it says so, with and without a CUDA compiler."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
CMAKE = shutil.which("cmake", path=SEARCH)
NINJA = shutil.which("ninja", path=SEARCH)

pytestmark = [
    pytest.mark.skipif(CMAKE is None or NINJA is None, reason="needs cmake and ninja"),
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="needs the sources"),
]


def configure(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Run CMake's configuration alone, with `environment` instead of what names a CUDA compiler."""
    hidden = ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAARCHS")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [
            str(CMAKE), "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={NINJA}", *options,
        ],
        capture_output=True, text=True, check=False, env={**inherited, **environment},
    )  # fmt: skip


def status_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("-- transnext: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("-- transnext: ")


def fake_compiler(tmp_path: Path, version: str) -> str:
    """Write an nvcc that tells its version and compiles nothing."""
    path = tmp_path / "nvcc"
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --version) echo "Cuda compilation tools, release, V{version}.1";; esac\n'
        'case "$1" in --version) exit 0;; *) exit 1;; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_off(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DTRANSNEXT_CUDA=OFF")
    assert status_line(result) == "CPU kernels only (TRANSNEXT_CUDA=OFF)"


def test_auto_without_a_compiler(tmp_path: Path) -> None:
    result = configure(tmp_path, CUDACXX="/nowhere/nvcc")
    assert status_line(result) == (
        "CPU kernels only (no CUDA compiler: /nowhere/nvcc does not exist)"
    )


def test_auto_with_a_broken_compiler(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, "13.0")
    line = status_line(configure(tmp_path, CUDACXX=compiler))
    assert line.startswith(f"CPU kernels only (no CUDA compiler: {compiler} cannot build a test")


def test_auto_with_an_old_compiler(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, "10.2")
    assert status_line(configure(tmp_path, CUDACXX=compiler)) == (
        f"CPU kernels only (no CUDA compiler: {compiler} is version 10.2, 11.8 or newer is needed)"
    )


def test_on_without_a_compiler_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DTRANSNEXT_CUDA=ON", CUDACXX="/nowhere/nvcc")
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "TRANSNEXT_CUDA=ON, but no CUDA compiler: /nowhere/nvcc does not exist" in message
    assert "point CUDACXX at its nvcc, or build with -DTRANSNEXT_CUDA=OFF" in message


def test_another_word_is_an_error(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DTRANSNEXT_CUDA=maybe")
    assert result.returncode != 0
    assert "TRANSNEXT_CUDA must be AUTO, ON or OFF, got 'maybe'" in " ".join(result.stderr.split())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
def test_architectures(tmp_path: Path) -> None:
    """All is every listed generation and PTX; a choice is respected, and what chose is said."""
    line = status_line(configure(tmp_path, "-DCMAKE_CUDA_ARCHITECTURES=all"))
    assert re.match(r"CPU kernels \(.+\) and CUDA kernels for 75-real, 80-real, 86-real, ", line)
    assert line.endswith("-virtual (as CMAKE_CUDA_ARCHITECTURES says)")
    chosen = configure(tmp_path / "chosen", CUDAARCHS="80;90")
    assert status_line(chosen).endswith(" and CUDA kernels for 80, 90 (as CUDAARCHS says)")
