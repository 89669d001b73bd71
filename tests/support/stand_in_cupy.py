"""The part of cupy that the backend uses, compiling with NVRTC and launching in the PTX emulator.

Options, name expressions and arguments are taken as CuPy takes them, and the options that CuPy adds
to every compilation are added here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from ptx_emulator import Execution, emulator, kept
from tools.kernel_report.compilers import OPTIONS_OF_CUPY, run_nvrtc, unavailable


def need_nvrtc() -> None:
    """Skip the test that asks for it where NVRTC is missing."""
    if (reason := unavailable("nvrtc")) is not None:
        pytest.skip(reason)


def compile_ptx(code: str, options: Sequence[str], names: Sequence[str]) -> tuple[str, list[str]]:
    """Return PTX and the mangled names. Warnings are errors."""
    need_nvrtc()
    ptx, log, entries = run_nvrtc(code, options, names)
    if log.strip():
        raise RuntimeError(f"NVRTC: {log}")
    return ptx, [entries[name] for name in names]


class StandInCupy:
    """Stands in for the module cupy; its one device has the compute capability given."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture
        self.execution = Execution()
        self.tensors: Sequence[Tensor | None] = ()  # that own the memory of the launch to come
        self.streams: list[int] = []  # current at each launch
        self._current: list[int] = []
        self.cuda = SimpleNamespace(Device=self._device, ExternalStream=self._external_stream)

    def _device(self, index: int | None) -> _Entered:
        device = _Entered([], 0)
        device.compute_capability = str(self.architecture)
        return device

    def _external_stream(self, handle: int, device_id: int) -> _Entered:
        assert device_id >= 0
        return _Entered(self._current, handle)

    def RawModule(
        self, *, code: str, backend: str, options: tuple[str, ...], name_expressions: Sequence[str]
    ) -> _RawModule:
        assert backend == "nvrtc"
        return _RawModule(self, code, options, list(name_expressions))


class _Entered:
    """A context that is on a list while it lasts."""

    compute_capability: str

    def __init__(self, to: list[int], value: int) -> None:
        self._to, self._value = to, value

    def __enter__(self) -> None:
        self._to.append(self._value)

    def __exit__(self, *error: object) -> None:
        self._to.pop()


class _RawModule:
    def __init__(self, cupy: StandInCupy, code: str, options: tuple[str, ...], names: list[str]):
        self.cupy, self.code, self.options, self.names = cupy, code, options, names
        self._loaded: tuple[Any, dict[str, str]] | None = None

    def get_function(self, name: str) -> _RawKernel:
        assert name in self.names
        return _RawKernel(self, name)

    def load(self) -> tuple[Any, dict[str, str]]:
        """Compile, as CuPy does, when a function is first launched."""
        if self._loaded is None:
            architecture = f"--gpu-architecture=compute_{self.cupy.architecture}"
            options = (*self.options, architecture, *OPTIONS_OF_CUPY)

            def make() -> str:
                ptx, mangled = compile_ptx(self.code, options, self.names)
                return "\n".join([*mangled, ptx])

            text = kept(f"nvrtc {self.code} {options} {self.names}", make)
            *mangled, ptx = text.split("\n", len(self.names))
            self._loaded = emulator().Module(ptx), dict(zip(self.names, mangled, strict=True))
        return self._loaded


class _RawKernel:
    def __init__(self, module: _RawModule, name: str) -> None:
        self._module, self._name = module, name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid: tuple, block: tuple, arguments: tuple, *, shared_mem: int = 0) -> None:
        cupy = self._module.cupy
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        (structure,) = arguments
        assert isinstance(structure, np.ndarray)
        assert structure.shape == (1,)
        cupy.streams.append(cupy._current[-1])
        module, mangled = self._module.load()
        cupy.execution.launch(
            module, self._name, mangled[self._name], (grid, block, shared_mem),
            structure.tobytes(), cupy.tensors,
        )  # fmt: skip
