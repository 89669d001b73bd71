"""Autocast: activations in its type, parameters as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast_activations(*activations: Any) -> tuple[Any, ...]:
    """Cast activations as the enclosing ``torch.autocast`` of their device asks, if there is one.

    Parameters (biases, scales, weights) stay as they are: every backend reads them in float32, so a
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
