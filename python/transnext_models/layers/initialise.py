"""Initialisation of the published code."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["initialise"]


def initialise(module: nn.Module) -> None:
    """Initialise one Linear, Conv2d or LayerNorm; anything else is left as it is.

    Attention modules initialise the parameters that are theirs alone.
    """
    # Without memory there are no values to draw, and drawing them imports PyTorch's compilers.
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
