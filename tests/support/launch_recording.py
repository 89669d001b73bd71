"""What bound operators would launch on a GPU, recorded on tensors that take no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

_cpp = pytest.importorskip("transnext_ops._cpp")

ARCHITECTURE = 80
STORAGE = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16"}


def record(
    operator: Callable[..., None],
    tensors: list[Tensor | None],
    *sizes: Any,
    architecture: int = ARCHITECTURE,
) -> Any:
    """Return what a bound operator would launch."""
    capsules = [None if tensor is None else to_dlpack(tensor) for tensor in tensors]
    return _cpp.record_launches(operator, (*capsules, *sizes, 1), architecture)


def of_shape(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of any size that takes no memory."""
    return torch.empty(1, dtype=dtype).expand(shape)


def kernels(launches: Any) -> list[tuple]:
    """Return (kernel, blocks, threads, shared bytes) of every launch."""
    return [
        (name, blocks[0], threads[:2], shared)
        for name, blocks, threads, shared, _ in launches.kernels
    ]
