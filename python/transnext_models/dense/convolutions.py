"""The convolution block of necks and heads: convolution, norm, ReLU.

In inference on a CPU a BatchNorm is part of the convolution before it, whose weights are kept as
they are for that: multiplied by the norm's scale, and transformed where Winograd's algorithm is
used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.derived import DerivesFromWeights
from ..layers.plain import plain, plain_parameter, remember_forward
from .eager import is_plain_inference
from .resized_convolution import add_resized, convolve_resized, taps_of
from .winograd import Convolution3x3, pays_off, winograd_3x3, winograd_kernel

__all__ = ["ConvNorm"]

_GROUPS = 32
_CHANNELS = 128  # of a result at a time: what its taps give is memory that the next ones use again

T = TypeVar("T")

remember_forward(Convolution3x3, nn.BatchNorm2d)


class ConvNorm(DerivesFromWeights):
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
        if not self._may_fold(x):
            return self._finish(self.conv(x))
        by_winograd = self._is_3x3() and pays_off(x, self.conv.weight)
        convolve = self._derived(by_winograd, lambda: self._folded(by_winograd))
        return self.activate(convolve(x))

    def of_resized(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what :meth:`forward` makes of maps resized to the first's size and put together.

        The kernel's side is 3 and the stride 1; see :func:`convolve_resized`.
        """
        if not self._may_fold(maps[0]):
            return self._finish(convolve_resized(maps, self.conv.weight, self.conv.bias))
        widths = tuple(x.shape[1] for x in maps)
        by_winograd = pays_off(maps[0], self.conv.weight[:, : widths[0]])
        convolve, taps = self._derived(
            (by_winograd, *widths), lambda: self._folded_of_resized(widths, by_winograd)
        )
        total = convolve(maps[0]).contiguous()
        for some, matrices in zip(total.split(_CHANNELS, 1), taps, strict=True):
            for i in range(len(total)):
                add_resized(some[i : i + 1], [x[i : i + 1] for x in maps[1:]], matrices)
        return self.activate(total)

    def _finish(self, x: Tensor) -> Tensor:
        return self.activate(getattr(self, self.norm_name)(x))

    # BatchNorm as part of the convolution

    def _may_fold(self, x: Tensor) -> bool:
        """Whether nobody would see the convolution or the BatchNorm called."""
        conv = self.conv
        return (
            self.norm_name == "bn"
            and not self.bn.training
            and plain(self.bn, nn.BatchNorm2d)
            and all(plain_parameter(self.bn, name) for name in ("weight", "bias"))
            and self.bn.running_mean is not None
            and type(conv) in (nn.Conv2d, Convolution3x3)
            and plain(conv, type(conv))
            and plain_parameter(conv, "weight")
            and x.dtype == conv.weight.dtype
            and is_plain_inference(x, *self.parameters())
            and not torch.is_autocast_enabled("cpu")
        )

    def _is_3x3(self) -> bool:
        return isinstance(self.conv, Convolution3x3)

    def _derived(self, key: Hashable, derive: Callable[[], T]) -> T:
        weights = [*self.parameters(), *(x for x in self.buffers() if x.is_floating_point())]
        return self.derived.get(weights, (key, self.bn.eps), derive)

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return the weight and the bias of convolution and BatchNorm in one."""
        bn, conv = self.bn, self.conv
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        mean = bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
        return conv.weight * scale[:, None, None, None], bn.bias - mean * scale

    def _folded(self, by_winograd: bool) -> Callable[[Tensor], Tensor]:
        return self._convolution(*self._weights(), by_winograd)

    def _folded_of_resized(
        self, widths: Sequence[int], by_winograd: bool
    ) -> tuple[Callable[[Tensor], Tensor], list[list[Tensor]]]:
        weight, bias = self._weights()
        first, *others = widths
        convolve = self._convolution(weight[:, :first].contiguous(), bias, by_winograd)
        taps = [
            [taps_of(part) for part in some.split(others, 1)]
            for some in weight[:, first:].split(_CHANNELS)
        ]
        return convolve, taps

    def _convolution(
        self, weight: Tensor, bias: Tensor, by_winograd: bool
    ) -> Callable[[Tensor], Tensor]:
        if by_winograd:
            return partial(winograd_3x3, kernel=winograd_kernel(weight), bias=bias)
        conv = self.conv
        return partial(F.conv2d, weight=weight, bias=bias, stride=conv.stride, padding=conv.padding)
