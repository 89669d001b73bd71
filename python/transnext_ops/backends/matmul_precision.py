"""PyTorch's settings that say how precise float32 matrix products must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def tf32_allowed() -> bool:
    """Return whether PyTorch may round the operands of float32 matrix products to TF32.

    ``torch.backends.cuda.matmul.fp32_precision`` says so whichever way it was set
    (``torch.set_float32_matmul_precision``, ``allow_tf32``, or ``torch.backends.fp32_precision``
    for all backends), where ``allow_tf32`` raises an error once both ways were used. PyTorch before
    2.9 has ``allow_tf32`` alone.
    """
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return matmul.fp32_precision == "tf32"
    return bool(matmul.allow_tf32)


def bfloat16_parts_allowed() -> bool:
    """Return whether float32 matrix products on a CPU may be less precise than float32.

    That is what ``torch.set_float32_matmul_precision("high")`` and ``"medium"`` allow, and
    ``torch.backends.mkldnn.matmul.fp32_precision``, which PyTorch before 2.9 does not have.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if hasattr(matmul, "fp32_precision"):
        return matmul.fp32_precision in ("tf32", "bf16")
    return torch.get_float32_matmul_precision() != "highest"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in matrix products or not, then restore what was set."""
    matmul: Any = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before = getattr(matmul, name)
    if name == "fp32_precision":
        matmul.fp32_precision = "tf32" if allowed else "ieee"
    else:
        matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        setattr(matmul, name, before)
