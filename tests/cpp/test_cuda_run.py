"""Launches of the compiled CUDA kernels: what is done, and what errors say.

``cpp/cuda/compiled/run.cu`` is compiled against a simulated CUDA runtime
(``cuda_run/cuda_runtime.h``), since the errors are those of drivers and devices that a test
cannot have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.dlpack import to_dlpack

_cpp = pytest.importorskip("transnext_ops._cpp")

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "cuda_run"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Callable[[str], list[str]]:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} is not on PATH")
    program = tmp_path_factory.mktemp("cuda_run") / "run"
    cpp = ROOT / "cpp"
    command = [
        compiler, "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{HERE}",
        f"-I{cpp}", f"-I{cpp / 'include'}", '-DTRANSNEXT_CUDA_ARCHITECTURES="80-real 90"',
        "-x", "c++", str(cpp / "cuda" / "compiled" / "run.cu"), str(HERE / "main.cpp"),
        "-o", str(program),
    ]  # fmt: skip
    subprocess.run(command, check=True)

    def run_machine(name: str) -> list[str]:
        done = subprocess.run([program, name], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run_machine


def test_kernels_are_launched_on_the_tensors_device(run) -> None:
    launched = ["device 1", "first 7 32 0", "second 5 64 0", "device 0"]
    assert run("working") == [*launched, "device 0, last error 0"]
    launched[1:2] = ["shared 65536", "first 7 32 65536"]
    assert run("large block") == [*launched, "device 0, last error 0"]


FIRST = (
    "gelu_pool: cannot launch gelu_pool_forward<float> with grid (7, 1, 1), block (32, 8, 1) and "
)
DRIVER = "gelu_pool: cannot use CUDA device 1: CUDA error cudaErrorInsufficientDriver: in words; "


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (
            "no driver",
            DRIVER + "the driver is not there, needs CUDA 13.0 or newer",
        ),
        (
            "old driver",
            DRIVER + "the driver is for CUDA 12.2, needs CUDA 13.0 or newer",
        ),
        (
            "no device",
            "gelu_pool: cannot use CUDA device 2: CUDA error cudaErrorInvalidDevice: in words",
        ),
        (
            "no machine code",
            FIRST + "0 bytes of shared memory: CUDA error cudaErrorNoKernelImageForDevice: "
            "in words; the device has compute capability 7.0, the library's kernels are for "
            "80-real 90; rebuild it with CMAKE_CUDA_ARCHITECTURES=70",
        ),
        (
            "too large block",
            FIRST + "102400 bytes of shared memory, of 98304 that the device has for a block: "
            "CUDA error cudaErrorInvalidValue: in words",
        ),
        (
            "earlier kernel",
            FIRST + "0 bytes of shared memory: CUDA error cudaErrorIllegalAddress: in words",
        ),
        (
            "no kernel",
            "gelu_pool: the compiled library has no CUDA kernel gelu_pool_forward<Quarter>, needs "
            "gelu_pool_forward<float> or gelu_pool_forward<Half>",
        ),
        ("no such kernels", "gelu_pool: the compiled library has no CUDA kernel matmul<float>"),
    ],
)
def test_errors_name_the_operator_what_came_and_what_is_needed(run, machine, message) -> None:
    *_, error, after = run(machine)
    assert error == f"error {message}"
    # The device is as before, and no later call finds an error that does not last.
    assert after == "device 0, last error 0"


def test_errors_are_python_exceptions() -> None:
    """On a machine without a GPU, whatever the library was built with."""
    if torch.cuda.is_available():
        pytest.skip("the launch would run")
    tensors = [to_dlpack(torch.zeros(1, size, 8)) for size in (4, 1)]
    arguments = (*tensors, (2, 2), (1, 1), 1)
    launches = _cpp.record_launches(_cpp.gelu_pool, arguments, 80)
    lacks = "the compiled library has no CUDA kernels, needs to be built with nvcc"
    if _cpp.cuda_architectures is not None:
        lacks = "cannot use CUDA device 0: CUDA error"
    with pytest.raises(RuntimeError, match=f"gelu_pool: {lacks}"):
        _cpp.run_launches("gelu_pool", launches, 0, 0)
