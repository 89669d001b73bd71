"""The compiled library: vectorised, threaded CPU kernels, and CUDA kernels where it was built with them.

Every function allocates its outputs here and passes tensors as DLPack capsules to
``transnext_ops._cpp``, which reads strided views in place, follows ``torch.get_num_threads()`` on the CPU
and torch's current stream on CUDA, and releases the GIL. Arguments are those of the operators' backend
functions: checked, parameters already in the compute type (float64 for float64, else float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from transnext_ops.backends.registry import ACTIVATION_DTYPES, Call

_cpp: Any
try:
    from transnext_ops import _cpp

    _import_failure = None
except ImportError as _error:
    _cpp = None
    _import_failure = str(_error)

CUDA_OPERATORS = ("gelu_pool",)
_CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Grid = Sequence[int]


def unavailable() -> str | None:
    """Say why the compiled library cannot be used in this process, or None if it can."""
    if _cpp is None:
        return (
            f"the compiled library is not there ({_import_failure}); build it with 'pip install .' "
            "in the project's folder, which needs a C++ compiler"
        )
    return None


def unsupported(call: Call) -> str | None:
    """Say why the compiled library cannot run `call`, or None if it can."""
    if call.dtype not in ACTIVATION_DTYPES:
        return f"it has no kernels for {call.dtype}"
    if call.device.type == "cpu":
        return None
    if call.device.type != "cuda":
        return f"it runs on CPU and CUDA tensors, got {call.device.type}"
    if _cpp.cuda_architectures is None:
        return (
            "the compiled library was built without CUDA kernels; rebuild it where nvcc is on PATH "
            "('pip install . --config-settings=cmake.define.TRANSNEXT_CUDA=ON' says what is missing)"
        )
    if call.op not in CUDA_OPERATORS:
        return f"the compiled library has no CUDA kernel for {call.op} yet; use backend 'torch'"
    if call.dtype not in _CUDA_DTYPES:
        return f"the compiled library has no CUDA kernel of {call.op} for {call.dtype}"
    return None


def _capsule(tensor: Tensor | None) -> Any:
    return None if tensor is None else to_dlpack(tensor)


def _where(tensor: Tensor) -> tuple[int, int]:
    """Return the last two arguments of every compiled operator: CPU threads and CUDA stream."""
    if tensor.device.type == "cuda":
        return 1, torch.cuda.current_stream(tensor.device).cuda_stream
    return torch.get_num_threads(), 0


def gelu_pool(x: Tensor, grid: Grid, pool_grid: Grid) -> Tensor:
    """Return the adaptive average pooling of GELU(x), ``[B, P, C]``."""
    out = x.new_empty((x.shape[0], pool_grid[0] * pool_grid[1], x.shape[2]))
    _cpp.gelu_pool(to_dlpack(x), to_dlpack(out), grid, pool_grid, *_where(x))
    return out


def gelu_pool_backward(d_out: Tensor, x: Tensor, grid: Grid, pool_grid: Grid) -> Tensor:
    """Return the gradient of :func:`gelu_pool` with respect to x, ``[B, N, C]``."""
    d_x = x.new_empty(x.shape)
    _cpp.gelu_pool_backward(
        to_dlpack(d_out), to_dlpack(x), to_dlpack(d_x), grid, pool_grid, *_where(x)
    )
    return d_x
