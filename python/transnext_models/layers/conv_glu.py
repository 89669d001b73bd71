"""Convolutional GLU, TransNeXt's channel mixer (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from transnext_ops import conv_glu

from .calls import may_stand_in, runs_on_cpu
from .grids import map_to_tokens, tokens_to_map
from .linear import linear_layer
from .plain import plain, plain_convolution, plain_linear, remember_forward

__all__ = ["ConvolutionalGLU", "DepthwiseConv"]

torch.fx.wrap("conv_glu")

# glibc maps every block of 32 MiB or more afresh, which costs a page fault per 4 KiB and as much
# time as the arithmetic on it; smaller blocks it learns to reuse.
_LARGEST_BUFFER = 31 << 20


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution of tokens, under its published name, ``dwconv.dwconv``.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """``x [B, H * W, channels]`` with ``grid = (H, W)`` to the same shape."""
        return map_to_tokens(self.dwconv(tokens_to_map(x, grid)))


class ConvolutionalGLU(nn.Module):
    """``fc2(GELU(dwconv(a)) * g)`` with ``a, g`` the halves of ``fc1(x)``.

    Source: TransNeXt paper, section 3.2. The first three arguments are the published class's.

    Parameters
    ----------
    in_features : int
        Channels in.
    hidden_features : int | None
        Width of the plain MLP that this layer is as large as, ``in_features`` unless given. Its
        own hidden width is two thirds of it, ``int(2 * hidden_features / 3)``, since the gate takes
        half of ``fc1``.
    out_features : int | None
        Channels out, ``in_features`` unless given.
    drop : float
        Dropout rate of the hidden layer and the output.

    Attributes
    ----------
    backend : str | None
        Operator backend, None for the one in force at the call.

    Raises
    ------
    TypeError, ValueError
        If a width is not an int, or too small.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        *,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        wide = in_features if hidden_features is None else hidden_features
        out = in_features if out_features is None else out_features
        names = ("in_features", "hidden_features", "out_features")
        for name, width, least in zip(names, (in_features, wide, out), (1, 2, 1), strict=True):
            if isinstance(width, bool) or not isinstance(width, int):
                raise TypeError(
                    f"{name}: got {width!r}, needs an int (of an expansion ratio, "
                    "int(ratio * in_features))"
                )
            if width < least:
                raise ValueError(f"{name}: got {width}, needs at least {least}")
        hidden = int(2 * wide / 3)
        self.fc1 = nn.Linear(in_features, 2 * hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, out)
        self.drop = nn.Dropout(drop)
        self.backend: str | None = None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """``x [B, H * W, in_features]`` with ``grid = (H, W)`` to ``[B, H * W, out_features]``."""
        groups = self._groups(x)
        if groups == 1:
            return self._forward(x, grid)
        return torch.cat([self._forward(images, grid) for images in x.chunk(groups)])

    def has_plain_layers(self) -> bool:
        """Whether every layer is as it was built, and nothing is attached to any."""
        parts = self._modules
        return (
            plain_linear(parts["fc1"])
            and plain_linear(parts["fc2"])
            and plain(parts["drop"], nn.Dropout)
            and self._has_plain_convolution()
        )

    def _has_plain_convolution(self) -> bool:
        """Whether ``dwconv`` is the convolution that the fused operator computes."""
        dwconv = self._modules["dwconv"]
        return plain(dwconv, DepthwiseConv) and plain_convolution(
            dwconv._modules["dwconv"],  # type: ignore[union-attr]
            3,
            1,
            depthwise=True,
        )

    def _forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = linear_layer(self.fc1, x)
        if self._has_plain_convolution() and may_stand_in(x):
            conv = self.dwconv.dwconv
            x = conv_glu(x, conv.weight, conv.bias, grid=grid, backend=self.backend)
        else:
            values, gates = x.chunk(2, dim=-1)
            x = F.gelu(self.dwconv(values, grid)) * gates
        return self.drop(linear_layer(self.fc2, self.drop(x)))

    def _groups(self, x: Tensor) -> int:
        """Return how many groups of images to compute one after the other.

        Their hidden features then fit in blocks that the allocator reuses. It is 1 where somebody
        would observe the parts.
        """
        if not runs_on_cpu(x) or x.dim() != 3 or not self.has_plain_layers():
            return 1
        image_bytes = x.shape[1] * self.fc1.out_features * x.element_size()
        images = max(1, _LARGEST_BUFFER // max(1, image_bytes))
        return 1 if images >= x.shape[0] else -(-x.shape[0] // images)


remember_forward(ConvolutionalGLU, DepthwiseConv)
