"""Convolutions of bfloat16 on processors for which PyTorch has none that is fit for use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calls import is_tensor, may_stand_in, product_type, recorded
from .fused_linear import pytorch_multiplies
from .plain import plain

__all__ = ["convolution_layer"]


def convolution_layer(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """``layer(x)``, in float32 and rounded where products of bfloat16 would be far slower.

    Those sum in float32 too.
    """
    if not _widened(layer, x):
        return layer(x)
    bias = None if layer.bias is None else layer.bias.float()
    with torch.autocast("cpu", enabled=False):
        y = F.conv2d(
            x.float(), layer.weight.float(), bias, layer.stride, layer.padding, layer.dilation,
            layer.groups,
        )  # fmt: skip
    return y.bfloat16()


def _widened(layer: nn.Conv2d, x: Tensor) -> bool:
    return (
        is_tensor(x)
        and x.device.type == "cpu"
        and not recorded()
        and plain(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and is_tensor(layer.weight)
        and product_type(x, layer.weight) == torch.bfloat16
        and not pytorch_multiplies(torch.bfloat16)
        and may_stand_in(x)
    )
