"""CUDA kernels compiled at run time by CuPy (NVRTC), for machines without a CUDA compiler.

The functions, the launches and the kernels' source are those of the compiled library
(:mod:`.cpp_backend`); only who compiles and launches the kernels differs. A kernel is compiled when
a call first needs it, that instance alone, once per GPU architecture. CuPy 14 keeps what it
compiled in its disk cache; CuPy 13 does so for kernels without template parameters only, so there
each process compiles its kernels once more. Kernels read torch's memory in place and run on torch's
current stream of the tensors' device. cupy is imported by the first call.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transnext_ops.backends import cpp_backend, kernel_sources
from transnext_ops.backends.registry import BackendError, Call
from transnext_ops.distribution import install_hint
from transnext_ops.schema import OPERATORS

_OLDEST_CUPY = 13
_SHARED_BYTES_FOR_ALL = 48 * 1024  # a kernel has to request more


def unavailable() -> str | None:
    """Say why CuPy kernels cannot run in this process, without importing cupy."""
    if importlib.util.find_spec("cupy") is None:
        return f"the package cupy is not installed ({install_hint('cupy')})"
    version = _installed_version()
    if version is not None and int(version.split(".")[0]) < _OLDEST_CUPY:
        return f"cupy is version {version}, {_OLDEST_CUPY} or newer is needed"
    if (reason := cpp_backend.unavailable()) is not None:
        return f"its launches come from the compiled library: {reason}"
    if kernel_sources.folders() is None:
        return "the kernels' source is missing from the package; reinstall it"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device (torch.cuda.is_available() is False)"
    return None


@functools.cache
def _installed_version() -> str | None:
    """Return the version of the distribution that contains cupy (cupy, cupy-cuda12x, ...)."""
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm")):
            return distribution.version
    return None


def unsupported(call: Call) -> str | None:
    """Say why CuPy kernels cannot run `call`, or None if they can."""
    if call.device.type != "cuda":
        return f"it runs on CUDA tensors only, got {call.device.type}"
    return cpp_backend.cuda_unsupported(call)


@functools.cache
def _cupy() -> ModuleType:
    """Import cupy: the one way from here to it."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise BackendError(f"backend 'cupy' cannot run: importing cupy fails: {error}") from error


@functools.cache
def _kernel(header: str, name: str) -> Any:
    """Return the RawKernel of one instance. It compiles at its first launch on an architecture."""
    # CuPy's disk cache knows a module by its source alone, so that has to tell versions of the
    # headers apart.
    code = f'// {kernel_sources.digest()}\n#include "{header}"\nusing namespace transnext;\n'
    folders = kernel_sources.folders()
    assert folders is not None
    options = ("--std=c++17", *(f"-I{folder}" for folder in folders))
    module = _cupy().RawModule(
        code=code, backend="nvrtc", options=options, name_expressions=(name,)
    )
    return module.get_function(name)


class _CupyKernels:
    """Runs launches (:class:`transnext_ops.backends.launches.Runner`) with CuPy's kernels."""

    @functools.cache  # noqa: B019  the one instance lives as long as the process
    def architecture(self, device: torch.device) -> int:
        return int(_cupy().cuda.Device(device.index).compute_capability)

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        cupy = _cupy()
        device = next(tensor for tensor in tensors if tensor is not None).device
        stream = torch.cuda.current_stream(device).cuda_stream
        with (
            cupy.cuda.Device(device.index),
            cupy.cuda.ExternalStream(stream, device.index or 0),
        ):
            for name, grid, block, shared_bytes, params in launches.kernels:
                # A NumPy array of one structure is CuPy's way to pass a structure by value.
                argument = np.frombuffer(params, dtype=f"V{len(params)}")
                try:
                    kernel = _kernel(launches.source, name)
                    if shared_bytes > _SHARED_BYTES_FOR_ALL:
                        kernel.max_dynamic_shared_size_bytes = shared_bytes
                    kernel(grid, block, (argument,), shared_mem=shared_bytes)
                except Exception as error:
                    raise RuntimeError(f"{op}: CuPy cannot run {name}: {error}") from error


_kernels = _CupyKernels()


def _on_cupy(name: str) -> Callable[..., Any]:
    """Return a function of the compiled library's backend with its kernels launched by CuPy."""
    function = getattr(cpp_backend, name)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with cpp_backend.launches.use_runner(_kernels):
            return function(*arguments, **named)

    return call


for _name, _operator in OPERATORS.items():
    globals()[_name] = _on_cupy(_name)
    globals()[f"{_name}_backward"] = _on_cupy(f"{_name}_backward")
    if _operator.writes_into:
        globals()[f"{_name}_backward_into"] = _on_cupy(f"{_name}_backward_into")
