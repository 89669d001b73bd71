"""CuPy arrays in the public functions, accepted and returned instead of torch tensors.

Memory is shared both ways (DLPack), and DLPack orders the two libraries' current streams. A call
with a CuPy array among its tensors returns a CuPy array, without gradient; a
:class:`~transnext_ops.PositionBias` stays one of torch tensors.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def accepts_cupy(function: _Function) -> _Function:
    """Let a function of torch tensors accept CuPy arrays too."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        # Without cupy imported there are no arrays of it. Traced code has torch tensors alone.
        if torch.compiler.is_compiling() or "cupy" not in sys.modules:
            return function(*arguments, **keywords)
        cupy = sys.modules["cupy"]
        found = False

        def as_torch(value: Any) -> Any:
            nonlocal found
            if not isinstance(value, cupy.ndarray):
                return value
            found = True
            return torch.from_dlpack(value)

        result = function(
            *(as_torch(value) for value in arguments),
            **{name: as_torch(value) for name, value in keywords.items()},
        )

        def as_cupy(value: Any) -> Any:
            return cupy.from_dlpack(value.detach()) if isinstance(value, torch.Tensor) else value

        if not found:
            return result
        return tuple(map(as_cupy, result)) if isinstance(result, tuple) else as_cupy(result)

    return cast(_Function, call)
