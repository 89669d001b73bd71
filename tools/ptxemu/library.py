"""The core in C++, compiled on first use and loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from tools.made_once import made_once

_CORE = Path(__file__).resolve().parent / "core"
_CHECKOUT = _CORE.parents[2]
# No contraction and no fast-math: results must be rounded exactly as the PTX says.
_FLAGS = (
    "-std=c++17", "-O2", "-ftree-vectorize", "-ffp-contract=off", "-fwrapv", "-fno-math-errno",
    "-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Werror",
    "-Wno-parentheses", "-Wno-unused-function", "-Wno-unused-parameter",
)  # fmt: skip


class Options(ctypes.Structure):
    """What a launch is asked for; the layout is that of ``Opts`` in core/launch.h."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("smem_limit", ctypes.c_uint32),
        ("stats", ctypes.c_uint32),
        ("races", ctypes.c_uint32),
        ("uninit", ctypes.c_uint32),
        ("global_races", ctypes.c_uint32),
        ("profile", ctypes.c_uint32),
        ("max_instructions", ctypes.c_uint64),
    ]


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def unavailable() -> str | None:
    """Say why kernels cannot be run, or None if they can."""
    if shutil.which(_compiler()) is None:
        return f"the PTX emulator needs a C++ compiler: {_compiler()} is not on PATH"
    return None


def _build() -> Path:
    """Return the compiled core, made once per version of its sources, compiler and processor."""
    compiler = _compiler()
    native = ["-march=native"] if platform.machine() == "x86_64" else []
    sources = sorted(_CORE.iterdir())
    key = hashlib.sha256(" ".join((compiler, *_FLAGS, *native)).encode())
    for path in sources:
        key.update(path.read_bytes())
    if native:
        key.update(_processor().encode())
    # In the checkout's build folder, which git ignores.
    target = _CHECKOUT / "build" / "ptxemu" / f"libptxemu-{key.hexdigest()[:16]}.so"

    def compile_to(made: Path) -> None:
        command = [compiler, *_FLAGS, *native, "-o", str(made), str(_CORE / "ptxemu.cpp")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the PTX emulator does not compile: {done.stderr[-3000:]}")

    return made_once(target, compile_to)


def _processor() -> str:
    """Return what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")


@functools.cache
def load() -> ctypes.CDLL:
    """Compile the core if need be, load it, and declare its functions."""
    library = ctypes.CDLL(str(_build()))
    handle, text = ctypes.c_void_p, ctypes.c_char_p
    u32, u64 = ctypes.c_uint32, ctypes.c_uint64
    for name, result, arguments in (
        ("emu_load", handle, [text, text, ctypes.c_int]),
        ("emu_free", None, [handle]),
        ("emu_info", text, [handle]),
        ("emu_range_count", u32, [handle]),
        ("emu_truncate_ranges", None, [handle, u32]),
        ("emu_add_range", u64, [handle, ctypes.c_void_p, u64, u64, ctypes.c_int, text]),
        ("emu_launch", text, [handle, text, text, u32, ctypes.POINTER(Options)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
