"""What is built can be loaded, or the build fails: the C++ runtime, and the check of the module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
CMAKE = shutil.which("cmake", path=SEARCH)
NINJA = shutil.which("ninja", path=SEARCH)
CHECK = ROOT / "cpp" / "cmake" / "CheckImport.cmake"

pytestmark = [
    pytest.mark.skipif(CMAKE is None or NINJA is None, reason="needs cmake and ninja"),
    pytest.mark.skipif(not CHECK.exists(), reason="needs the sources"),
]

# A project of our own CMake modules around a module of the size of a test's patience.
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES CXX)
list(APPEND CMAKE_MODULE_PATH "@MODULES@")
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
include(CxxRuntime)
Python_add_library(_cpp MODULE module.cpp)
if(RUNTIME)
  target_link_libraries(_cpp PRIVATE ${transnext_cxx_runtime})
endif()
set(TRANSNEXT_CHECK_IMPORT ON)
include(ImportCheck)
"""
MODULE = """
#include <Python.h>
#include <stdexcept>
#include <string>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpp", nullptr, -1, nullptr,
                                 nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__cpp() {
  try {
    throw std::runtime_error(std::string("thrown"));
  } catch (const std::exception&) {
  }
  return PyModule_Create(&definition);
}
"""


def check(module: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CMAKE), f"-DPYTHON={python}", f"-DMODULE={module}", "-P", str(CHECK)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def said(result: subprocess.CompletedProcess[str]) -> str:
    return " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01\x01", b"no library at all" * 300])
def test_a_file_that_does_not_load_fails(tmp_path: Path, content: bytes) -> None:
    module = tmp_path / "with spaces" / "_cpp.so"
    module.parent.mkdir()
    module.write_bytes(content)
    result = check(module)
    assert result.returncode != 0
    assert f"transnext: {module} was built, but {sys.executable} cannot load it: " in said(result)
    assert "ImportError" in said(result)


def test_a_python_that_crashes_fails(tmp_path: Path) -> None:
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    result = check(tmp_path / "_cpp.so", str(crash))
    assert result.returncode != 0
    assert "cannot load it: " in said(result)


def test_the_library_of_this_package_loads() -> None:
    library = pytest.importorskip("transnext_ops._cpp").__file__
    result = check(Path(library))
    assert result.returncode == 0, said(result)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "probe"
    folder.mkdir()
    modules = str(ROOT / "cpp" / "cmake")
    (folder / "CMakeLists.txt").write_text(PROJECT.replace("@MODULES@", modules))
    (folder / "module.cpp").write_text(MODULE)
    return folder


def built(project: Path, compiler: str, *options: str) -> subprocess.CompletedProcess[str]:
    folder = project / "build"
    configured = subprocess.run(
        [
            str(CMAKE), "-S", str(project), "-B", str(folder), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={NINJA}",
            f"-DCMAKE_CXX_COMPILER={compiler}", *options,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert configured.returncode == 0, said(configured)
    return subprocess.run(
        [str(CMAKE), "--build", str(folder)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "gcc", "clang++", "clang"])
def test_whoever_links_brings_the_runtime_in(project: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    result = built(project, compiler, "-DRUNTIME=ON")
    assert result.returncode == 0, said(result)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_without_it_the_build_fails_and_says_what_is_missing(project: Path) -> None:
    result = built(project, "gcc", "-DRUNTIME=OFF")
    assert result.returncode != 0
    assert "cannot load it: ImportError: " in said(result)
    assert "undefined symbol" in said(result)
