"""CUDA C++ compiled to PTX, by nvcc or NVRTC."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def find_nvcc() -> Path:
    """Return nvcc: ``$NVCC``, the one on ``PATH``, or CUDA's usual place."""
    return Path(os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")


def nvcc(source: str, arch: str = "sm_80", flags: Sequence[str] = ()) -> str:
    """Compile to PTX with nvcc.

    Parameters
    ----------
    source : str
        A file's name, or source text of several lines.
    arch : str
        For instance ``"sm_80"``.
    flags : sequence of str
        More of the compiler's options.

    Raises
    ------
    RuntimeError
        With what the compiler says.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, ptx = Path(source), Path(folder, "out.ptx")
        if "\n" in source:
            path = Path(folder, "kernel.cu")
            path.write_text(source)
        command: list[str | Path] = [find_nvcc(), "-ptx", f"-arch={arch}", "-std=c++17"]
        command += [*flags, "-o", ptx, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr + done.stdout)
        return ptx.read_text()


def find_nvrtc() -> Path | None:
    """Return NVRTC's library: ``$NVRTC_LIB``, or of this Python's package nvidia-cuda-nvrtc."""
    if named := os.environ.get("NVRTC_LIB"):
        return Path(named)
    for folder in sys.path:
        for pattern in ("nvidia/*/lib/libnvrtc.so.*", "nvidia/*/lib64/libnvrtc.so.*"):
            for path in sorted(Path(folder).glob(pattern)):
                if ".alt." not in path.name:
                    return path
    return None


def nvrtc(
    source: str,
    arch: str = "sm_80",
    flags: Sequence[str] = (),
    include: Sequence[str | Path] | None = None,
) -> str:
    """Compile to PTX with NVRTC.

    Parameters
    ----------
    source : str
        Source text.
    arch : str
        For instance ``"sm_80"``.
    flags : sequence of str
        More of the compiler's options.
    include : sequence of paths, optional
        Folders with headers; CUDA's own by default.

    Raises
    ------
    RuntimeError
        NVRTC is not installed, or what it says.
    """
    path = find_nvrtc()
    if path is None:
        raise RuntimeError("NVRTC not found: pip install nvidia-cuda-nvrtc, or set NVRTC_LIB")
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC opens it by its bare name
    library = ctypes.CDLL(str(path))
    if include is None:
        include = _headers(path)
    options = [
        f"--gpu-architecture=compute_{arch.split('_')[1]}",
        "--std=c++17",
        *(f"-I{folder}" for folder in include),
        *flags,
    ]
    program = ctypes.c_void_p()
    handle = ctypes.byref(program)
    if library.nvrtcCreateProgram(handle, source.encode(), b"kernel.cu", 0, None, None):
        raise RuntimeError("nvrtcCreateProgram failed")
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), array):
            raise RuntimeError(program_text(library, program, "ProgramLog"))
        return program_text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(handle)


def _headers(nvrtc_library: Path) -> tuple[Path, ...]:
    """Return CUDA's headers: beside nvcc, in CUDA's usual place, or in NVRTC's own package."""
    roots = (find_nvcc().resolve().parents[1], Path("/usr/local/cuda"), nvrtc_library.parents[1])
    for root in roots:
        if (root / "include" / "mma.h").exists():
            return root / "include", root / "include" / "cccl"
    return ()


def program_text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    """Return what NVRTC has of a program: ``"PTX"``, ``"ProgramLog"``."""
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()
