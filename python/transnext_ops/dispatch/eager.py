"""Operators called past PyTorch's dispatcher, where nothing but autograd sees the call.

A custom operator written in Python passes through the dispatcher twice forward and twice
backward, each time with its arguments converted: half of what an attention's forward and backward
cost beside the kernels (``docs/performance.md``). A plain eager call needs none of that. Whatever
watches operators (compilers, tracers, modes, function transforms, tensor subclasses, the profiler)
sees those of ``torch.ops.transnext``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_PLAIN_DEVICES = ("cpu", "cuda")


@dataclass
class Paths:
    """The ways to call an operator, or a backward.

    Attributes
    ----------
    packet : torch.ops operator
        Through PyTorch's dispatcher.
    kernel : callable
        A backend's name to its function.
    function : type of torch.autograd.Function or None
        The autograd formula, for operators that have one.
    is_backward : bool
    """

    packet: Any
    kernel: Callable[[str], Callable[..., Any]]
    function: Any = None
    is_backward: bool = False


def call(paths: Paths, *arguments: Any) -> Any:
    """Call an operator, past PyTorch's dispatcher where the result is the same.

    Parameters
    ----------
    paths : Paths
    *arguments
        The operator's, in the order of its record; the last is a backend's name.

    Raises
    ------
    NotImplementedError
        A derivative is asked for that the operator does not have: a forward-mode one, one of
        ``torch.func``, or gradients of several outputs at once. PyTorch would give no tangent, or
        an error about its own classes.
    """
    if torch.compiler.is_compiling():
        return paths.packet(*arguments)
    if paths.is_backward and _is_batched(arguments[0]):
        raise NotImplementedError(
            f"transnext_ops backend {arguments[-1]!r} computes the gradient of one output at a "
            "time: neither vmap over gradients nor is_grads_batched or vectorize; use backend "
            "'torch', which has them"
        )
    if _is_plain(arguments):
        if not _records_gradient(arguments):
            return paths.kernel(arguments[-1])(*arguments[:-1])
        if paths.function is not None:
            return paths.function.apply(*arguments)
    elif _is_transformed(arguments):
        raise NotImplementedError(
            f"transnext_ops backend {arguments[-1]!r} has no forward-mode derivatives and no "
            "gradients by torch.func's transforms; use backend 'torch', which has both"
        )
    return paths.packet(*arguments)


def sees_nobody(x: Tensor) -> bool:
    """Whether a call on `x` would pass the dispatcher by: nothing but autograd would see it."""
    return not torch.compiler.is_compiling() and _is_plain((x,))


def spread(gradients: Sequence[Any], needs: Sequence[bool]) -> Sequence[Any]:
    """Return one gradient per entry of `needs`, None where it is False.

    The functions of backends return such lists; operators of PyTorch return tensors alone.
    """
    if len(gradients) == len(needs):
        return gradients
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs]


def _records_gradient(arguments: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in arguments
    )


def _is_plain(arguments: Sequence[Any]) -> bool:
    if torch.jit.is_tracing() or _observed():
        return False
    first = None  # the tensors of a call are on one device
    for value in arguments:
        if isinstance(value, Tensor):
            if type(value) not in _PLAIN_TYPES:
                return False
            first = value if first is None else first
    return first is not None and first.device.type in _PLAIN_DEVICES


def _is_transformed(arguments: Sequence[Any]) -> bool:
    """Whether a tangent belongs to one of the tensors, or ``torch.func.grad`` tracks one."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    if not _records_gradient(tensors):
        return False
    functorch = torch._C._functorch
    try:
        levels = functorch.get_interpreter_stack() or ()
        return any(level.key() == functorch.TransformType.Grad for level in levels)
    except AttributeError:  # a version that names them otherwise; PyTorch says what it cannot do
        return False


def _is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many under vmap, or under autograd's older kind of it."""
    functorch = torch._C._functorch
    try:
        return functorch.is_legacy_batchedtensor(tensor) or functorch.is_batchedtensor(tensor)
    except AttributeError:  # a version that names them otherwise; PyTorch says what it cannot do
        return False


def _assume_observed() -> bool:
    return True


def _find_observers() -> Callable[[], bool]:
    """Return a function that says whether anything beside autograd sees operators now.

    PyTorch has no public name for these states; where a version lacks one of them, every call
    counts as seen.
    """
    try:
        dispatch_modes = torch._C._len_torch_dispatch_stack
        function_modes = torch._C._len_torch_function_stack
        transforms = torch._C._functorch.peek_interpreter_stack
        profiled = torch.autograd._profiler_enabled
        forward_ad._current_level  # noqa: B018  raises if it is missing
    except AttributeError:
        return _assume_observed

    def observed() -> bool:
        return (
            dispatch_modes() > 0
            or function_modes() > 0
            or transforms() is not None
            or forward_ad._current_level >= 0
            or profiled()
        )

    return observed


_observed = _find_observers()
