"""Whether a call is recorded instead of run, and what may be asked of its sizes then."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["constant_in_graphs", "known_true", "reshaped", "traced", "transformed"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_in_graphs(function: _Function) -> _Function:
    """Have ``torch.compile`` call a function once, while it traces, and record its result.

    ``torch.compiler.assume_constant_result`` does the same, but imports all of ``torch._dynamo``
    for it, which takes longer than importing PyTorch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def traced() -> bool:
    """Whether sizes may be symbols and new tensors fakes: neither may be kept."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    # Under FakeTensorMode and its kin, new tensors are of a subclass.
    return type(torch.empty(0, device="cpu")) is not Tensor


def _find_transformed() -> Callable[[], bool]:
    # PyTorch has no public name for these states; a version without them has no such transforms.
    functorch = getattr(torch._C, "_functorch", None)
    transforms = getattr(functorch, "peek_interpreter_stack", lambda: None)

    def transformed() -> bool:
        """Whether ``torch.func`` (vmap, grad, jvp and their kin) or forward-mode AD is at work.

        A tensor then may be one of many, or carry a tangent, with nothing to show for it in its
        type, and what is computed of it belongs to the transform: it must not be kept.
        """
        return transforms() is not None or getattr(forward_ad, "_current_level", -1) >= 0

    return transformed


transformed = _find_transformed()


def known_true(condition: bool) -> bool:
    """Return `condition`, or False where a trace leaves the sizes in it open.

    Deciding it there would bind the graph to sizes for which it comes out the same way: another
    graph for others under ``torch.compile``, an error under ``torch.export``.
    """
    if not traced() or torch.jit.is_tracing():  # which fixes all sizes
        return bool(condition)
    # Imported late: it imports all of sympy.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def reshaped(x: Tensor, *shape: int) -> Tensor:
    """Return ``x.reshape(shape)``, so that a trace asks little of sizes that it leaves open.

    PyTorch finds out which axes a view joins or splits by trial divisions, each of which becomes a
    condition on the sizes. Seen as a line and then as a matrix of the last axis, a tensor has no
    axes to try; what is left are divisions by the leading sizes, a batch or a number of heads.
    """
    if not traced():
        return x.reshape(shape)
    line = x.contiguous().view(x.numel())
    return line.view(math.prod(shape[:-1]), shape[-1]).view(shape)
