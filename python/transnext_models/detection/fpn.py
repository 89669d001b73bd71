"""The feature pyramid network.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv 1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..dense.winograd import Convolution3x3

__all__ = ["Convolution", "FeaturePyramid"]


class Convolution(nn.Module):
    """A convolution under the name ``conv``, as in the published state dicts; then perhaps a ReLU.

    Parameters
    ----------
    in_channels, out_channels, kernel : int
        Of the convolution, which keeps the map's size.
    relu : bool
        Whether a ReLU follows; it also decides how weights start.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, relu: bool = False
    ) -> None:
        super().__init__()
        if kernel == 3:
            self.conv: nn.Conv2d = Convolution3x3(in_channels, out_channels)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        if relu:
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        x = self.conv(x)
        return x.relu_() if self.relu else x


class FeaturePyramid(nn.Module):
    """Give maps of all strides the same width, and what coarser ones know.

    Parameters
    ----------
    in_channels : sequence of int
        Channels of the maps, that of the smallest stride first.
    channels : int
        Channels of what comes out.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Convolution(c, channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(Convolution(channels, channels, 3) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn ``[B, C_i, H_i, W_i]`` into ``[B, channels, H_i, W_i]`` and one more.

        The last is every second cell of the one before.
        """
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            size = levels[i - 1].shape[-2:]
            levels[i - 1] = F.interpolate(levels[i], size, mode="nearest").add_(levels[i - 1])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=True)]
        return [*levels, levels[-1][..., ::2, ::2]]
