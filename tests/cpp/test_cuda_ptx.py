"""The CUDA kernels without a GPU: the PTX that CuPy (NVRTC) and nvcc make of them, run on the CPU.

NVRTC's goes through the CuPy backend itself, with a stand-in for cupy; nvcc's through the launches
of the compiled library. Results are compared with the NumPy reference on tensors whose outputs held
NaN before. The emulator reports every race, uninitialised shared read and access outside a tensor.
That every instance in cpp/cuda/instances has run is checked last.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import transnext_ops as ops
from agreement import check_gelu_pool
from ptx_cases import CASES
from ptx_emulator import ROOT, Execution, emulator, fill_new_tensors_with_nan, kept
from stand_in_cupy import StandInCupy, need_nvrtc
from strategies import TokenCase

pytest.importorskip("transnext_ops._cpp")

from transnext_ops.backends import cpp_backend, cupy_backend, kernel_sources, launches, registry

NVRTC_ARCHITECTURE = int(os.environ.get("TRANSNEXT_NVRTC_ARCHITECTURE", "90"))
NVCC_ARCHITECTURE = int(os.environ.get("TRANSNEXT_NVCC_ARCHITECTURE", "80"))
OLDEST_ARCHITECTURE = 75  # multiplies and copies another way
STREAM = 0x5EED


@dataclasses.dataclass
class _ByCupy:
    """The CuPy backend on CPU tensors that pose as CUDA tensors."""

    cupy: StandInCupy

    backend = "cupy"

    @property
    def execution(self) -> Execution:
        return self.cupy.execution


class _Nvcc:
    """A runner of launches: nvcc's PTX of the files that the library compiles."""

    backend = "cpp"

    def __init__(self, nvcc: str, architecture: int) -> None:
        self.execution = Execution()
        self._nvcc, self._architecture = nvcc, architecture

    def architecture(self, device: torch.device) -> int:
        return self._architecture

    def _file(self, source: str, kernel: str) -> str:
        """Return the name of a .cu file with the kernel: of the operator itself, or another's."""
        lists = kernel_sources.kernel_names()
        own = Path(source).stem
        return min(
            (file for file, kernels in lists.items() if kernel in kernels),
            key=lambda file: file != own,
        )

    @functools.cache  # noqa: B019  lives as long as the tests
    def _module(self, file: str, group: int | None) -> tuple[Any, dict[str, str]]:
        """Return the emulated module of a file or of one group of its kernels, as the library
        compiles them, and its entries by the kernels' names."""
        architecture = f"sm_{self._architecture}"
        cpp = ROOT / "cpp"
        flags = ["-std=c++17", "-Werror", "all-warnings", f"-I{cpp / 'include'}", f"-I{cpp}"]
        if group is not None:
            flags.append(f"-DTRANSNEXT_KERNELS={group}")
        source = cpp / "cuda" / "compiled" / f"{file}.cu"
        os.environ["NVCC"] = self._nvcc
        ptx = kept(
            f"nvcc {architecture} {flags} {source.read_text()}",
            lambda: emulator().nvcc(str(source), arch=architecture, flags=flags),
        )
        module = emulator().Module(ptx)
        return module, {spelled(demangled(entry)): entry for entry in module.kernels()}

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        for name, grid, block, shared_bytes, params in launches.kernels:
            file = self._file(launches.source, name)
            module, entries = self._module(file, group_of(file, name))
            plan = (grid, block, shared_bytes)
            self.execution.launch(module, name, entries[spelled(name)], plan, params, tensors)


@functools.cache
def group_of(file: str, kernel: str) -> int | None:
    """Return the group of a kernel in the list of a .cu file, None for a list without groups."""
    group = None
    for line in (ROOT / "cpp" / "cuda" / "instances" / f"{file}.inc").read_text().splitlines():
        if found := re.search(r"TRANSNEXT_KERNELS & (\d+)", line):
            group = int(found[1])
        if f"({kernel})" in line:
            return group
    raise ValueError(f"{kernel} is not in {file}.inc")


# While the emulator is still there: the interpreter may take it apart before its modules.
atexit.register(_Nvcc._module.cache_clear)


def demangled(entry: str) -> str:
    """Return ``gelu_pool_forward<Half>`` for what c++filt says of a kernel's entry."""
    line = subprocess.run(["c++filt", entry], capture_output=True, text=True, check=True).stdout
    return line.strip().removeprefix("void ").replace("transnext::", "").partition("(")[0]


def spelled(kernel: str) -> str:
    return re.sub(r"\s", "", kernel)


@contextmanager
def posing(architecture: int) -> Iterator[_ByCupy]:
    emulator()
    need_nvrtc()
    stand_in = StandInCupy(architecture)
    run = cupy_backend._CupyKernels.run

    def run_with_tensors(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        stand_in.tensors = tensors  # the emulator has to know the memory; a GPU does not
        run(self, op, launches, tensors)

    def supported(call: registry.Call) -> str | None:
        return unsupported(dataclasses.replace(call, device=torch.device("cuda", 0)))

    unsupported = cupy_backend.unsupported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_backend, "_cupy", lambda: stand_in)
        patch.setattr(cupy_backend._CupyKernels, "run", run_with_tensors)
        patch.setattr(cupy_backend, "unavailable", lambda: None)
        patch.setattr(cupy_backend, "unsupported", supported)
        patch.setattr(
            torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM)
        )
        forget()
        try:
            yield _ByCupy(stand_in)
        finally:
            forget()


def forget() -> None:
    """Let decisions and kernels of one stand-in not be taken by the next."""
    registry._decide.cache_clear()
    cupy_backend._kernel.cache_clear()
    cupy_backend._CupyKernels.architecture.cache_clear()


@pytest.fixture(scope="module")
def by_cupy() -> Iterator[_ByCupy]:
    with posing(NVRTC_ARCHITECTURE) as runner:
        yield runner


@pytest.fixture(scope="module")
def by_nvcc() -> Iterator[_Nvcc]:
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler: nvcc is not on PATH")
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt on PATH")
    emulator()
    runner = _Nvcc(nvcc, NVCC_ARCHITECTURE)
    with launches.use_runner(runner):
        yield runner


COMPILERS = ("by_cupy", "by_nvcc")


@pytest.fixture(params=COMPILERS)
def compiled(request) -> Any:
    return request.getfixturevalue(request.param)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def agreements() -> list[Any]:
    """Every case of every operator in every storage type by both compilers, which make PTX of the
    same source: of each pair the compilers take turns in CI, and the other runs every week."""
    rare = (pytest.mark.slow, pytest.mark.long)
    return [
        pytest.param(
            compiler, op, check, dtype,
            marks=rare if (case + type_ + turn) % 2 else (),
            id=f"{compiler}-{op}-{case}-{name_of(dtype)}",
        )
        for op in registry.OPERATORS
        for case, check in enumerate(CASES[op].values())
        for type_, dtype in enumerate(cpp_backend.CUDA_DTYPES)
        for turn, compiler in enumerate(COMPILERS)
    ]  # fmt: skip


AGREEMENTS = agreements()


@pytest.mark.parametrize(("compiled", "op", "check", "dtype"), AGREEMENTS, indirect=["compiled"])
def test_kernels_agree_with_the_reference(compiled, op, check, dtype, monkeypatch) -> None:
    outputs = fill_new_tensors_with_nan(monkeypatch)
    monkeypatch.setattr(compiled.execution, "outputs", outputs)
    check(compiled.backend, dtype)


@pytest.mark.parametrize("dtype", cpp_backend.CUDA_DTYPES, ids=name_of)
@pytest.mark.parametrize("op", registry.OPERATORS)
def test_the_oldest_architecture(op: str, dtype: torch.dtype, monkeypatch) -> None:
    """The first case of each operator, all heads of 24, on a GPU without asynchronous copies and
    bfloat16 products."""
    with posing(OLDEST_ARCHITECTURE) as runner:
        runner.execution.outputs = fill_new_tensors_with_nan(monkeypatch)
        next(iter(CASES[op].values()))("cupy", dtype)
        assert runner.execution.results


def test_the_grid_may_be_smaller_than_the_work(compiled, monkeypatch) -> None:
    """Kernels step on by the grid's size, as the largest tensors need."""
    monkeypatch.setattr(compiled.execution, "most_blocks", 3)
    case = TokenCase(
        batch=2, grid=(5, 6), pool_grid=(2, 2), channels=40, dtype=torch.float32, layout="packed",
        seed=1,
    )  # fmt: skip
    check_gelu_pool(case, compiled.backend)


def test_accesses_are_whole_sectors(compiled) -> None:
    """gelu_pool's warps read and write runs of consecutive channels, every byte of x once."""
    x = torch.randn(1, 64, 64)
    ops.gelu_pool(x, grid=(8, 8), pool_grid=(2, 2), backend=compiled.backend)
    kernel, result = compiled.execution.results[-1]
    assert kernel == "gelu_pool_forward<float>"
    assert result.stats["global_load"]["bytes"] == x.numel() * 4
    assert result.coalescing("global_load") == 1.0
    assert result.coalescing("global_store") == 1.0


def test_cupy_runs_on_torchs_stream(by_cupy) -> None:
    ops.gelu_pool(torch.randn(1, 4, 8), grid=(2, 2), pool_grid=(1, 1), backend="cupy")
    assert set(by_cupy.cupy.streams) == {STREAM}


def test_a_kernel_that_fails_is_named_with_its_operator(by_cupy, monkeypatch) -> None:
    monkeypatch.setattr(by_cupy.execution, "launch", lambda *_: 1 / 0)
    message = r"gelu_pool: CuPy cannot run gelu_pool_forward<float>: division by zero"
    with pytest.raises(RuntimeError, match=message):
        ops.gelu_pool(torch.randn(1, 4, 8), grid=(2, 2), pool_grid=(1, 1), backend="cupy")


@pytest.mark.after_its_module
def test_every_instance_has_run(compiled, request) -> None:
    """Needs the whole module to have run before, in one process."""
    if hasattr(request.config, "workerinput"):
        pytest.skip("the tests are spread over several processes")
    agreement = [
        item
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_kernels_agree_with_the_reference"
    ]
    if len(agreement) < len(AGREEMENTS):
        pytest.skip("the agreement tests were not all selected")
    exist = {name for names in kernel_sources.kernel_names().values() for name in names}
    assert sorted(exist - compiled.execution.kernels()) == []
