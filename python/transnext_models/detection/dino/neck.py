"""From the backbone's maps to levels of one width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ChannelMapper"]

_GROUPS = 32


class _ConvNorm(nn.Module):
    """Convolution without bias and GroupNorm, under their published names."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.gn = nn.GroupNorm(_GROUPS, out_channels)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``."""
        return self.gn(self.conv(x))


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
        self.convs = nn.ModuleList(_ConvNorm(width, channels, 1, 1) for width in in_channels)
        self.extra_convs = nn.ModuleList([_ConvNorm(in_channels[-1], channels, 3, 2)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one level more than maps ``[B, C_i, H_i, W_i]``, all of ``channels``.

        The added one is computed from the last map itself.
        """
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return [*levels, self.extra_convs[0](maps[-1])]
