"""Where faster formulations without gradients may stand in for the plain ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_plain_inference"]


def is_plain_inference(*tensors: Tensor) -> bool:
    """Whether nobody needs a gradient of these, nor a graph of what is computed, on a CPU."""
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tensors[0].device.type == "cpu" and not needs_gradient and not traced
