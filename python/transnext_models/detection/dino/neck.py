"""From the backbone's maps to levels of one width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...dense.convolutions import ConvNorm

__all__ = ["ChannelMapper"]


class ChannelMapper(nn.Module):
    """A 1×1 convolution and GroupNorm on each map, and one more level of twice the stride.

    Parameters
    ----------
    in_channels : sequence of int
        Of the maps, that of the smallest stride first.
    channels : int
        Of every level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvNorm(width, channels, norm="gn", relu=False) for width in in_channels
        )
        self.extra_convs = nn.ModuleList(
            [ConvNorm(in_channels[-1], channels, 3, stride=2, norm="gn", relu=False)]
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one level more than maps ``[B, C_i, H_i, W_i]``, all of ``channels``.

        The added one is computed from the last map itself.
        """
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return [*levels, self.extra_convs[0](maps[-1])]
