"""One GEMM or convolution of a model, and the ways to compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Way = Callable[[], object]
# One tensor for all operands of a shape, as an activation just written would be.
Like = Callable[[tuple[int, ...]], Tensor]


@dataclass
class Gemm:
    """One GEMM or convolution of the model.

    Attributes
    ----------
    kind : {"linear", "convolution", "depthwise", "attention"}
        ``attention`` is QKᵀ and PV over the pooled (stage 4: all) keys.
    shape : tuple
        Equal for those that do the same work on other weights.
    flops : float
        Two for each multiply-add.
    ways : dict
        Functions that compute it.
    """

    kind: str
    shape: tuple[object, ...]
    flops: float
    ways: dict[str, Way]
