"""Finds a C++ compiler that can build the library, or says why there is none."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

_CHECK = Path(__file__).with_name("compiler_check.cpp")
_USUAL = ("c++", "g++", "clang++")


def find_compiler(chosen: str | None) -> tuple[str | None, str]:
    """Return the command of a compiler, for the variable ``CXX``, or None and the reason.

    A usable compiler compiles and links a test program with Python's headers and what the library's
    sources need. Unless one is chosen, the compiler that built Python is tried first, as in
    scikit-build-core, but it need not exist on this machine.

    Parameters
    ----------
    chosen : str or None
        The value of ``CMAKE_CXX_COMPILER``; the environment's ``CXX`` comes after it.
    """
    if os.name == "nt":
        return None, "the library is for Linux and macOS"
    missing, failures = [], []
    for command in _candidates(chosen):
        if not command or shutil.which(command[0]) is None:
            missing.append(" ".join(command))
        elif (failure := _failure(command)) is None:
            return shlex.join(command), ""
        else:
            failures.append(failure)
    if failures:
        return None, failures[0]
    return None, f"no C++ compiler was found ({', '.join(dict.fromkeys(missing))})"


def _candidates(chosen: str | None) -> Iterator[list[str]]:
    if chosen:
        yield [chosen]
    elif os.environ.get("CXX"):
        yield shlex.split(os.environ["CXX"])
    else:
        # Flags behind the compiler are those of Python's own sources.
        words = shlex.split(sysconfig.get_config_var("CXX") or "")
        flags = [i for i, word in enumerate(words) if word.startswith("-")]
        if words[: flags[0]] if flags else words:
            yield words[: flags[0]] if flags else words
        yield from ([name] for name in _USUAL)


def _failure(command: list[str]) -> str | None:
    """Say why a compiler cannot build the library, or None if it can."""
    headers = dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "check.cpp")
        source.write_text(f"#include <Python.h>\n{_CHECK.read_text()}")
        try:
            done = subprocess.run(
                [
                    *command, *shlex.split(os.environ.get("CXXFLAGS", "")), "-std=c++17", "-fPIC",
                    "-shared", *(f"-I{header}" for header in headers if header), str(source),
                    "-o", str(Path(folder, "check.so")),
                ],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                cwd=folder, timeout=120, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the C++ compiler {shlex.join(command)} cannot be run: {error}"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in said if "error" in line.lower()] or said or ["it says nothing"]
    first = errors[0].replace(f"{folder}{os.sep}", "")
    return f"the C++ compiler {shlex.join(command)} cannot compile it: {first}"
