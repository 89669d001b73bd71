"""The convolution block of necks and heads: convolution, norm, ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .resized_convolution import convolve_resized
from .winograd import Convolution3x3

__all__ = ["ConvNorm"]

_GROUPS = 32


class ConvNorm(nn.Module):
    """Convolution with padding around the map, then a norm, then perhaps a ReLU.

    Its parts have the names of the published state dicts: ``conv``, and ``bn`` or ``gn``.

    Parameters
    ----------
    in_channels, out_channels, kernel, stride : int
        Of the convolution; the kernel's side is odd.
    norm : {"bn", "gn"}
        BatchNorm, or GroupNorm of 32 groups.
    bias, relu : bool
        Whether the convolution has a bias, and a ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        norm: Literal["bn", "gn"] = "bn",
        stride: int = 1,
        bias: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if (kernel, stride) == (3, 1):
            self.conv: nn.Conv2d = Convolution3x3(in_channels, out_channels, bias=bias)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        if norm == "bn":
            self.bn = nn.BatchNorm2d(out_channels)
        else:
            self.gn = nn.GroupNorm(_GROUPS, out_channels)
        self.norm_name = norm
        self.activate = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``."""
        return self._finish(self.conv(x))

    def of_resized(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what :meth:`forward` makes of maps resized to the first's size and put together.

        The kernel's side is 3 and the stride 1; see :func:`convolve_resized`.
        """
        return self._finish(convolve_resized(maps, self.conv.weight, self.conv.bias))

    def _finish(self, x: Tensor) -> Tensor:
        return self.activate(getattr(self, self.norm_name)(x))
