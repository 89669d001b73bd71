"""Which C++ compiler the build backend takes, and what it says where none will do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "cpp" / "packaging"
COMPILER = shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(not PACKAGING.exists(), reason="needs the sources")
needs_headers = pytest.mark.skipif(
    not Path(sysconfig.get_path("include"), "Python.h").exists() or COMPILER is None,
    reason="needs a C++ compiler and Python's headers",
)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in an environment that chooses no compiler."""
    for name in ("CXX", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location(
        "compiler_search", PACKAGING / "compiler_search.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_none_on_path(search: ModuleType, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "/nowhere/g++ -pthread")
    compiler, reason = search.find_compiler(None)
    assert compiler is None
    assert reason == "no C++ compiler was found (/nowhere/g++, c++, g++, clang++)"


def test_windows_has_none_whatever_is_installed(search: ModuleType, monkeypatch) -> None:
    """MSVC lacks the vector types; nothing is started there."""

    def started(*_args: object, **_options: object) -> None:
        raise AssertionError("started a compiler")

    monkeypatch.setattr(search.subprocess, "run", started)
    monkeypatch.setattr(search.os, "name", "nt")
    monkeypatch.setenv("CXX", "cl.exe")
    result = search.find_compiler("cl.exe")
    monkeypatch.undo()  # paths are this system's again
    assert result == (None, "the library is for Linux and macOS")


def test_one_that_fails_is_named_with_its_first_error(search, monkeypatch, tmp_path) -> None:
    broken = script(
        tmp_path / "broken c++", "echo 'check.cpp:1: fatal error: no such thing' >&2; exit 1"
    )
    compiler, reason = search.find_compiler(broken)
    assert compiler is None
    assert f"the C++ compiler '{broken}' cannot compile it" in reason
    assert "fatal error: no such thing" in reason


def test_one_that_fails_in_silence(search: ModuleType, tmp_path: Path) -> None:
    compiler, reason = search.find_compiler(script(tmp_path / "mute", "exit 3"))
    assert compiler is None
    assert reason.endswith("it says nothing")


def test_a_file_that_is_no_program(search: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "c++"
    path.write_bytes(b"\x00\x01 no program")
    path.chmod(0o755)
    compiler, reason = search.find_compiler(str(path))
    assert compiler is None
    assert "cannot be run" in reason


def test_the_chosen_one_is_not_replaced(search: ModuleType, monkeypatch) -> None:
    """Who names a compiler that is not there hears of it, though others are."""
    monkeypatch.setenv("CXX", "/nowhere/g++ -flag")
    assert search.find_compiler(None) == (None, "no C++ compiler was found (/nowhere/g++ -flag)")
    assert search.find_compiler("/nowhere/clang++") == (
        None, "no C++ compiler was found (/nowhere/clang++)",
    )  # fmt: skip


@needs_headers
def test_what_python_was_built_with_need_not_be_here(search: ModuleType, monkeypatch) -> None:
    find = sysconfig.get_config_var
    monkeypatch.setattr(
        sysconfig, "get_config_var", lambda name: "/nowhere/g++" if name == "CXX" else find(name)
    )
    compiler, _ = search.find_compiler(None)
    assert compiler in ("c++", "g++", "clang++")


@needs_headers
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_gcc_compiles_cxx_too(search: ModuleType, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "gcc -O0")
    assert search.find_compiler(None) == ("gcc -O0", "")


@needs_headers
def test_missing_headers_of_python_are_named(search, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    compiler, reason = search.find_compiler(COMPILER)
    assert compiler is None
    assert "Python.h" in reason
    assert os.sep + "tmp" not in reason.split("cannot compile it:")[1]


def test_it_needs_nothing_but_python() -> None:
    """The backend's own modules come before any requirement is installed."""
    known = {*sys.stdlib_module_names, "__future__"}
    lines = (PACKAGING / "compiler_search.py").read_text().splitlines()
    imports = [
        line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
    ]
    assert imports
    assert set(imports) <= known
