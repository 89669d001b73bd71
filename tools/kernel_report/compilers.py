"""The two compilers of the CUDA kernels, and what they say of each kernel they make.

Both are given the same headers and the instances that ``cuda/instances`` lists. A warning of
compiler or assembler is an error.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.ptxemu.compilers import program_text
from transnext_ops.backends import kernel_sources

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


class CompilationError(RuntimeError):
    """A compiler is missing, fails, or warns."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one architecture.

    Attributes
    ----------
    kernel : str
        As listed in ``cuda/instances``.
    entry : str
        Its mangled name in the PTX.
    registers : int
        Of a thread.
    shared_bytes : int
        Static shared memory of a block.
    stack_bytes, spill_stores, spill_loads : int
        Local memory of a thread, and bytes of it that registers are moved to and from.
    tensor_core_instructions : int
        In its PTX.
    """

    kernel: str
    architecture: int
    entry: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int
    tensor_core_instructions: int


@dataclass(frozen=True)
class Compilation:
    """What one run of a compiler made."""

    ptx: str = field(repr=False)
    kernels: tuple[CompiledKernel, ...]


def compile_kernels(compiler: str, kernels: Sequence[str], architecture: int) -> Compilation:
    """Compile kernels for one architecture.

    Parameters
    ----------
    compiler : str
        ``"nvcc"`` or ``"nvrtc"``.
    kernels : sequence of str
        As listed in ``cuda/instances``.
    architecture : int
        Compute capability, major * 10 + minor.

    Raises
    ------
    CompilationError
        The compiler is not there, it fails, or it warns; the message holds what it said.
    """
    compile_ = {"nvcc": _by_nvcc, "nvrtc": _by_nvrtc}[compiler]
    ptx, log, entries = compile_(kernels, architecture)
    if re.search("warning", log, re.IGNORECASE):
        raise CompilationError(f"{compiler} sm_{architecture}: {log}")
    resources = _resources(log)
    products = _tensor_core_instructions(ptx)
    made = tuple(
        CompiledKernel(
            kernel, architecture, entries[kernel], **resources[entries[kernel]],
            tensor_core_instructions=products[entries[kernel]],
        )
        for kernel in kernels
    )  # fmt: skip
    return Compilation(ptx, made)


def unavailable(compiler: str) -> str | None:
    """Say why a compiler cannot be used, or None if it can."""
    if kernel_sources.folders() is None:
        return "the kernels' source is missing from the package; reinstall it"
    if compiler == "nvcc":
        if _nvcc() is None:
            return "nvcc is not on PATH and CUDACXX is not set"
        return None if shutil.which("c++filt") else "c++filt is not on PATH"
    return None if _nvrtc_path() else "the package nvidia-cuda-nvrtc is not installed"


# Source


def _includes(kernels: Sequence[str]) -> str:
    names = dict.fromkeys(kernel.partition("<")[0] for kernel in kernels)
    headers = dict.fromkeys(_header(name) for name in names)
    return "".join(f'#include "{header}"\n' for header in headers)


@functools.cache
def _header(name: str) -> str:
    """Return the header that defines the kernel `name`."""
    defined = re.compile(r"__global__[^;{}]*?\b" + name + r"\(")
    (folder, *_) = kernel_sources.folders() or (Path(),)
    for path in sorted((folder / "cuda" / "kernels").rglob("*.cuh")):
        if defined.search(path.read_text()):
            return str(path.relative_to(folder))
    raise CompilationError(f"no header in {folder / 'cuda'} defines the kernel {name}")


def _include_options() -> list[str]:
    return [f"-I{folder}" for folder in kernel_sources.folders() or ()]


# nvcc


def _nvcc() -> str | None:
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


def _by_nvcc(kernels: Sequence[str], architecture: int) -> tuple[str, str, dict[str, str]]:
    if (reason := unavailable("nvcc")) is not None:
        raise CompilationError(f"nvcc: {reason}")
    addresses = "".join(f"  reinterpret_cast<const void*>(&{kernel}),\n" for kernel in kernels)
    table = f"extern const void* const kernels[] = {{\n{addresses}}};\n"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernels.cu")
        source.write_text(f"{_includes(kernels)}namespace transnext {{\n{table}}}\n")
        command = [
            str(_nvcc()), "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v",
            "-Werror", "all-warnings", "--keep", "--keep-dir", folder, *_include_options(),
            "-o", str(Path(folder, "kernels.cubin")), str(source),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        log = done.stdout + done.stderr
        if done.returncode != 0:
            raise CompilationError(f"nvcc sm_{architecture}: {log}")
        ptx = Path(folder, "kernels.ptx").read_text()
    return ptx, log, _entries_by_name(ptx, kernels)


def _entries_by_name(ptx: str, kernels: Sequence[str]) -> dict[str, str]:
    entries = re.findall(r"\.entry\s+(\w+)", ptx)
    done = subprocess.run(
        ["c++filt"], input="\n".join(entries), capture_output=True, text=True, check=True
    )
    found = {}
    for entry, line in zip(entries, done.stdout.splitlines(), strict=True):
        name = line.removeprefix("void ").replace("transnext::", "").partition("(")[0]
        found[_spelled(name)] = entry
    return {kernel: found[_spelled(kernel)] for kernel in kernels}


def _spelled(kernel: str) -> str:
    return re.sub(r"\s", "", kernel)


# NVRTC

# CuPy adds these to every compilation.
OPTIONS_OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")


def _nvrtc_path() -> str | None:
    for folder in map(Path, sys.path):
        for lib in ("lib", "lib64"):
            for path in sorted(folder.glob(f"nvidia/*/{lib}/libnvrtc.so.*")):
                if ".alt." not in path.name:
                    return str(path)
    return None


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    if (reason := unavailable("nvrtc")) is not None:
        raise CompilationError(f"NVRTC: {reason}")
    path = Path(str(_nvrtc_path()))
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC opens it by its bare name
    return ctypes.CDLL(str(path))


def _by_nvrtc(kernels: Sequence[str], architecture: int) -> tuple[str, str, dict[str, str]]:
    # The options that the CuPy backend and CuPy itself compile with.
    options = [
        "--std=c++17", *_include_options(), f"--gpu-architecture=sm_{architecture}",
        *OPTIONS_OF_CUPY, "--ptxas-options=-v",
    ]  # fmt: skip
    code = f"{_includes(kernels)}using namespace transnext;\n"
    try:
        return run_nvrtc(code, options, kernels)
    except CompilationError as error:
        raise CompilationError(f"NVRTC sm_{architecture}: {error}") from None


def run_nvrtc(
    code: str, options: Sequence[str], names: Sequence[str]
) -> tuple[str, str, dict[str, str]]:
    """Return PTX, NVRTC's log, and the entry of each name expression.

    Raises
    ------
    CompilationError
        NVRTC is not there or fails; the message holds what it said.
    """
    library, program = _nvrtc(), ctypes.c_void_p()
    source = code.encode()
    status = library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    assert status == 0, status
    try:
        for name in names:
            status = library.nvrtcAddNameExpression(program, name.encode())
            assert status == 0, status
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), array)
        log = program_text(library, program, "ProgramLog")
        if status != 0:
            raise CompilationError(log)
        entries = {}
        for name in names:
            lowered = ctypes.c_char_p()
            status = library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered))
            assert status == 0, status
            assert lowered.value is not None
            entries[name] = lowered.value.decode()
        return program_text(library, program, "PTX"), log, entries
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


# What the assembler says


def _resources(log: str) -> dict[str, dict[str, int]]:
    """Return each entry's resources from the assembler's verbose output."""
    found: dict[str, dict[str, int]] = {}
    for entry, said in _sections(log, r"Compiling entry function '(\w+)'"):

        def number(pattern: str, said: str = said) -> int:
            match = re.search(pattern, said)
            return int(match[1]) if match else 0

        found[entry] = {
            "registers": number(r"Used (\d+) registers"),
            "shared_bytes": number(r"(\d+) bytes smem"),
            "stack_bytes": number(r"(\d+) bytes stack frame"),
            "spill_stores": number(r"(\d+) bytes spill stores"),
            "spill_loads": number(r"(\d+) bytes spill loads"),
        }
    return found


def _tensor_core_instructions(ptx: str) -> dict[str, int]:
    return {
        entry: len(re.findall(r"^\s*(?:@\S+\s+)?w?mma\.", body, re.MULTILINE))
        for entry, body in _sections(ptx, r"\.entry\s+(\w+)")
    }


def _sections(text: str, begin: str) -> Iterator[tuple[str, str]]:
    """Yield what stands between one match of `begin` and the next, by the match's group."""
    matches = list(re.finditer(begin, text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        yield match[1], text[match.end() : end]
