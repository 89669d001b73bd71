"""UPerNet's two heads: pooling pyramid with feature pyramid, and the auxiliary one.

Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, arXiv
1807.10221, section 3.1; the pooling is that of Zhao et al., "Pyramid Scene Parsing Network", CVPR
2017, arXiv 1612.01105.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..dense.convolutions import ConvNorm

__all__ = ["AuxiliaryHead", "UPerNetHead"]

_POOLED_SIDES = (1, 2, 3, 6)
_DROPOUT = 0.1


class UPerNetHead(nn.Module):
    """Per-pixel logits from the four maps of a backbone.

    Parameters
    ----------
    in_channels : sequence of int
        Channels of the maps, that of the smallest stride first.
    num_classes, channels : int
        Classes, and channels inside.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int = 150, channels: int = 512
    ) -> None:
        super().__init__()
        *first, last = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNorm(last, channels))
            for side in _POOLED_SIDES
        )
        self.bottleneck = ConvNorm(last + len(_POOLED_SIDES) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(width, channels) for width in first)
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in first)
        self.fpn_bottleneck = ConvNorm(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.conv_seg = classifier(channels, num_classes)

    def pool_pyramid(self, x: Tensor) -> Tensor:
        """Add to the last map ``[B, C, H, W]`` what it is on average in ever larger regions."""
        return self.bottleneck.of_resized([x, *(module(x) for module in self.psp_modules)])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits ``[B, classes, H, W]`` of the first map's size.

        ``maps`` are the backbone's, ``[B, C_i, H_i, W_i]``.
        """
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=False)]
        levels.append(self.pool_pyramid(maps[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = _resize_like(levels[i], levels[i - 1]).add_(levels[i - 1])
        smooth = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)]
        smooth.append(levels[-1])
        return self.conv_seg(self.dropout(self.fpn_bottleneck.of_resized(smooth)))


class AuxiliaryHead(nn.Module):
    """Logits from one map by a 3 x 3 convolution, for a second loss in training."""

    def __init__(self, in_channels: int, num_classes: int = 150, channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(in_channels, channels, 3))
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to logits ``[B, classes, H, W]``."""
        return self.conv_seg(self.dropout(self.convs(x)))


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Return the 1 x 1 convolution to the classes, as published at the start of training."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
