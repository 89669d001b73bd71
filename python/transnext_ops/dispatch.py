"""From a checked call to its implementation: autocast, backend, custom operator or composite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transnext_ops import eager
from transnext_ops.backends import registry, torch_backend


def autocast_activations(*activations: Any) -> tuple[Any, ...]:
    """Cast activations as the enclosing ``torch.autocast`` of their device asks, if there is one.

    Parameters (biases, scales, weights) stay as they are: every backend takes them in float32, so a
    16-bit copy would lose digits and save nothing. float64 is left alone, as in PyTorch's own
    rules.
    """
    first = activations[0]
    if not isinstance(first, Tensor):
        first = next(tensor for tensor in activations if isinstance(tensor, Tensor))
    device_type = first.device.type
    if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
        return activations
    dtype = torch.get_autocast_dtype(device_type)
    castable = (torch.float32, torch.float16, torch.bfloat16)
    return tuple(
        tensor.to(dtype) if isinstance(tensor, Tensor) and tensor.dtype in castable else tensor
        for tensor in activations
    )


def run(
    op: str,
    first: Tensor,
    arguments: Sequence[Any],
    backend: str | None,
    *,
    head_dim: int | None = None,
    window_size: int | None = None,
) -> Tensor:
    """Run an operator on checked arguments and return its output.

    Parameters
    ----------
    op : str
        Name in :data:`transnext_ops.backends.registry.OPERATORS`.
    first : Tensor
        The activation (or parameter) that sets device and dtype.
    arguments : sequence
        The operator's arguments in the backends' order.
    backend : str or None
        The call's own choice; None takes the one in force.
    """
    requested = registry.get_backend() if backend is None else registry.check_backend_name(backend)
    name = registry.choose(requested, op, first.device, first.dtype, head_dim, window_size)
    if name == "torch":
        return getattr(torch_backend, op)(*arguments)
    result = eager.call(op, *arguments, name)
    return result[0] if isinstance(result, (tuple, list)) else result
