"""Convolutional GLU, TransNeXt's channel mixer (paper section 3.4)."""

from __future__ import annotations

from torch import Tensor, nn

import transnext_ops as ops

__all__ = ["ConvolutionalGLU", "DepthwiseConv"]


class DepthwiseConv(nn.Module):
    """Holds the 3x3 depthwise convolution under its published name, ``dwconv.dwconv``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


class ConvolutionalGLU(nn.Module):
    """``fc2(GELU(dwconv(a)) * g)`` with ``a, g`` the halves of ``fc1(x)``.

    Parameters
    ----------
    dim : int
        Channels in and out.
    mlp_ratio : float
        The hidden width is ``int(2 * int(dim * mlp_ratio) / 3)``: two thirds, so that the gate
        makes the layer no larger than a plain MLP of that ratio.
    drop : float
        Dropout rate of the hidden layer and the output.

    Attributes
    ----------
    backend : str | None
        Operator backend, None for the one in force at the call.
    """

    def __init__(self, dim: int, mlp_ratio: float, drop: float = 0.0) -> None:
        super().__init__()
        hidden = int(2 * int(dim * mlp_ratio) / 3)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)
        self.backend: str | None = None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """``x [B, H * W, dim]`` with ``grid = (H, W)`` to ``[B, H * W, dim]``."""
        conv = self.dwconv.dwconv
        x = ops.conv_glu(self.fc1(x), conv.weight, conv.bias, grid=grid, backend=self.backend)
        return self.drop(self.fc2(self.drop(x)))
