"""A 3 x 3 convolution of maps of several sizes, resized to one and put together.

UPerNet joins four levels at the size of the largest; three quarters of the channels of what it then
convolves are bilinear between far fewer cells. Convolution and resizing are both linear, so that
each of the kernel's nine taps can be applied to the small map, and what they give be resized and
added: 2.7 times fewer multiplications for four levels of 128, 64, 32 and 16 cells a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .winograd import convolve_3x3

__all__ = ["add_resized", "convolve_resized", "taps_of"]


def convolve_resized(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Resize all maps to the first's size, concatenate and convolve them, without doing so.

    Equal, but for rounding, to ``conv2d(cat([maps[0], *resized]), weight, bias, padding=1)`` with
    ``resized`` the others by ``interpolate(…, mode="bilinear", align_corners=False)``.

    Parameters
    ----------
    maps : sequence of Tensor
        ``[B, C_i, H_i, W_i]``.
    weight : Tensor
        ``[O, sum of C_i, 3, 3]``.
    bias : Tensor | None
        ``[O]``.

    Returns
    -------
    Tensor
        ``[B, O, H_0, W_0]``.
    """
    own, *others = weight.split([x.shape[1] for x in maps], 1)
    total = convolve_3x3(maps[0], own, bias).contiguous()
    return add_resized(total, maps[1:], [taps_of(part) for part in others])


def taps_of(weight: Tensor) -> Tensor:
    """Return a kernel ``[O, C, 3, 3]`` as a matrix: columns' taps, O and rows' taps, by C."""
    return weight.permute(3, 0, 2, 1).reshape(9 * weight.shape[0], -1)


def add_resized(total: Tensor, maps: Sequence[Tensor], taps: Sequence[Tensor]) -> Tensor:
    """Add to ``total [B, O, H, W]`` convolutions of maps resized to its size, in place.

    ``taps`` are those of their kernels (:func:`taps_of`).
    """
    for x, matrix in zip(maps, taps, strict=True):
        _add_convolution(total, x, matrix)
    return total


def _add_convolution(total: Tensor, x: Tensor, taps: Tensor) -> None:
    """Add to ``total [B, O, H, W]`` the convolution of one map resized to its size.

    A tap that looks at the next row sees the resized map moved by one row, zero where it ends: a
    matrix on the small map's rows. Likewise columns.
    """
    batch, outputs, height, width = total.shape
    rows, columns = x.shape[2:]
    parts = (taps @ x.flatten(2)).view(batch, 3, outputs * 3 * rows, columns)
    across = _moved_resizing(columns, width, parts).mT  # [3, w, W]
    wide = parts[:, 0] @ across[0]
    for tap in (1, 2):
        wide.baddbmm_(parts[:, tap], across[tap].expand(batch, -1, -1))
    down = _moved_resizing(rows, height, wide).transpose(0, 1).flatten(1)  # [H, 3 · h]
    wide = wide.view(batch * outputs, 3 * rows, width)
    # Not len(wide), which a trace of TorchScript would keep as a number.
    total.view(-1, height, width).baddbmm_(down.expand(batch * outputs, -1, -1), wide)


def _moved_resizing(old: int, new: int, like: Tensor) -> Tensor:
    """Return the matrices ``[3, new, old]`` that resize and then move by -1, 0 and 1 cells."""
    unit = torch.eye(old, device=like.device)
    resizing = F.interpolate(unit[None], new, mode="linear", align_corners=False)[0].T
    padded = F.pad(resizing, (0, 0, 1, 1)).to(like.dtype)
    return torch.stack([padded[tap : tap + new] for tap in range(3)])
