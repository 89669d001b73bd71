"""Anchors: the boxes that the region proposal network starts from.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv 1506.01497, section 3.1.1; one size on each
level as in Lin et al., "Feature Pyramid Networks", CVPR 2017, arXiv 1612.03144, section 4.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ANCHOR_SCALE", "RATIOS", "STRIDES", "anchors_of_level", "valid_anchors"]

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)  # height over width
ANCHOR_SCALE = 8  # side of the square anchor in strides, as published


def anchors_of_level(
    shape: tuple[int, int], stride: int, like: Tensor, scale: int = ANCHOR_SCALE
) -> Tensor:
    """Return a level's anchors ``[rows · columns · 3, 4]`` by row, column and ratio.

    Those of cell (row, column) are centred on (column · stride, row · stride), its corner.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the map.
    stride : int
        Pixels from cell to cell.
    like : Tensor
        It gives the device.
    scale : int
        Side of the square anchor in strides.
    """
    halves = [
        (stride * scale / math.sqrt(ratio) / 2, stride * scale * math.sqrt(ratio) / 2)
        for ratio in RATIOS
    ]
    shapes = torch.tensor([(-w, -h, w, h) for w, h in halves], device=like.device)
    y = torch.arange(shape[0], device=like.device, dtype=torch.float32) * stride
    x = torch.arange(shape[1], device=like.device, dtype=torch.float32) * stride
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack((columns, rows, columns, rows), -1)
    return (centres[:, :, None] + shapes).reshape(-1, 4)


def valid_anchors(
    shape: tuple[int, int], stride: int, size: tuple[int, int], like: Tensor
) -> Tensor:
    """Say which of a level's anchors belong to cells of an image, the others being padding's.

    Parameters
    ----------
    size : (int, int)
        Height and width of the image, with the padding that it has for itself.

    Returns
    -------
    Tensor
        bool ``[rows · columns · 3]``.
    """
    rows, columns = (torch.arange(n, device=like.device) * stride for n in shape)
    inside = (rows < size[0])[:, None] & (columns < size[1])
    return inside.reshape(-1, 1).expand(-1, len(RATIOS)).reshape(-1)
