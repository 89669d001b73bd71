"""Convolutional GLU, TransNeXt's channel mixer (paper section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import transnext_ops as ops

from .hooks import any_global_hook, hooked
from .linear import linear_layer

__all__ = ["ConvolutionalGLU", "DepthwiseConv"]

# glibc takes every block of 32 MiB or more fresh from the kernel, which costs a page fault per
# 4 KiB and as much time as the arithmetic on it; smaller ones it learns to keep.
_LARGEST_BUFFER = 31 << 20


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
        groups = self._groups(x)
        if groups == 1:
            return self._forward(x, grid)
        return torch.cat([self._forward(images, grid) for images in x.chunk(groups)])

    def _forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        conv = self.dwconv.dwconv
        x = linear_layer(self.fc1, x)
        x = ops.conv_glu(x, conv.weight, conv.bias, grid=grid, backend=self.backend)
        return self.drop(linear_layer(self.fc2, self.drop(x)))

    def _groups(self, x: Tensor) -> int:
        """How many groups of images to compute one after the other, for hidden features of a
        memory that the allocator keeps; 1 where a hook would see the parts."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.dim() != 3:
            return 1
        if type(x) is not Tensor or x.device.type != "cpu":
            return 1
        image_bytes = x.shape[1] * 2 * self.dwconv.dwconv.out_channels * x.element_size()
        images = max(1, _LARGEST_BUFFER // max(1, image_bytes))
        if images >= x.shape[0] or any_global_hook() or any(map(hooked, self.children())):
            return 1
        return -(-x.shape[0] // images)
