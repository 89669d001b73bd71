"""Sine position embeddings: of the cells of a map, and of points or boxes.

Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, arXiv 2005.12872,
appendix A.4 (maps); Liu et al., "DAB-DETR", ICLR 2022, arXiv 2201.12329, section 4.2 (boxes).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sine_of_boxes", "sine_of_map"]


def sine_of_map(
    padding: Tensor,
    channels: int = 128,
    *,
    temperature: float = 10000.0,
    offset: float = 0.0,
    eps: float = 1e-6,
) -> Tensor:
    """Embed the position of each cell of a batch of maps.

    Row i of n that are no padding has the coordinate ``2π (i + 1 + offset) / (n + eps)``; columns
    likewise.

    Parameters
    ----------
    padding : Tensor
        ``[B, H, W]`` bool, true for cells that are padding: they have no coordinate of their own.
    channels : int
        For each axis.
    temperature : float
        Ratio of the longest wave to the shortest: 10000 in Mask2Former, 20 in DINO.

    Returns
    -------
    Tensor
        ``[B, 2 · channels, H, W]`` float32: rows before columns, sines and cosines in turn.
    """
    valid = (~padding).float()
    axes = []
    for axis in (1, 2):
        index = valid.cumsum(axis)
        count = index.narrow(axis, -1, 1)
        coordinate = (index + offset) / (count + eps) * (2 * math.pi)
        axes.append(_waves(coordinate, channels, temperature))
    return torch.cat(axes, -1).permute(0, 3, 1, 2)


def sine_of_boxes(boxes: Tensor, channels: int = 128, *, temperature: float = 10000.0) -> Tensor:
    """Embed points or boxes in units of the image's sides.

    Parameters
    ----------
    boxes : Tensor
        ``[..., 2]`` (x, y) or ``[..., 4]`` (cx, cy, w, h).
    channels : int
        For each number.

    Returns
    -------
    Tensor
        ``[..., 2 · channels]`` or ``[..., 4 · channels]``, in the order y, x, w, h; at least
        float32.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    waves = _waves(boxes * (2 * math.pi), channels, temperature)  # [..., 2 or 4, channels]
    order = [1, 0, *range(2, boxes.shape[-1])]
    return waves[..., order, :].flatten(-2)


def _waves(angles: Tensor, channels: int, temperature: float) -> Tensor:
    """Return sine and cosine in turn of ``angles / temperature^(2i / channels)``."""
    if channels % 2:
        raise ValueError(f"channels: got {channels}, needs an even number")
    exponents = torch.arange(0, channels, 2, device=angles.device, dtype=angles.dtype) / channels
    phases = angles[..., None] / temperature**exponents
    return torch.stack((phases.sin(), phases.cos()), -1).flatten(-2)
