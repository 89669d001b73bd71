"""Boxes as differences from other boxes, which is what Mask R-CNN's heads predict.

Source: Girshick et al., "Rich feature hierarchies for accurate object detection and semantic
segmentation", CVPR 2014, appendix C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LARGEST_GROWTH", "clip_boxes", "decode_boxes", "encode_boxes", "rescale_boxes"]

LARGEST_GROWTH = math.log(1000 / 16)
"""Bound of |log of the factor| by which a side changes, so that no box overflows."""

STANDARD_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
"""Of the second stage's differences, which are divided by them."""


def encode_boxes(boxes: Tensor, targets: Tensor, scale: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """Return what takes boxes to their targets.

    Parameters
    ----------
    boxes, targets : Tensor
        ``[n, 4]`` (left, top, right, bottom), with positive sides.
    scale : tuple of four float
        What the differences are divided by.

    Returns
    -------
    Tensor
        ``[n, 4]``: the centre's moves in sides of the box, and the logarithms of the sides' ratios.
    """
    boxes, targets = boxes.float(), targets.float()
    centre, side = _centre_and_side(boxes)
    new_centre, new_side = _centre_and_side(targets)
    deltas = torch.cat(((new_centre - centre) / side, (new_side / side).log()), -1)
    return deltas / deltas.new_tensor(scale)


def decode_boxes(boxes: Tensor, deltas: Tensor, scale: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """Apply differences to boxes.

    Parameters
    ----------
    boxes : Tensor
        ``[..., 4]``.
    deltas : Tensor
        ``[..., 4]``, of a shape that broadcasts with it.

    Returns
    -------
    Tensor
        float32 ``[..., 4]``.
    """
    deltas = deltas.float() * boxes.new_tensor(scale, dtype=torch.float32)
    centre, side = _centre_and_side(boxes.float())
    centre = centre + deltas[..., :2] * side
    half = 0.5 * side * deltas[..., 2:].clamp(-LARGEST_GROWTH, LARGEST_GROWTH).exp()
    return torch.cat((centre - half, centre + half), -1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes ``[..., 4]`` cut at the borders of an image of (height, width) ``size``."""
    height, width = size
    return torch.stack(
        (
            boxes[..., 0].clamp(0, width),
            boxes[..., 1].clamp(0, height),
            boxes[..., 2].clamp(0, width),
            boxes[..., 3].clamp(0, height),
        ),
        -1,
    )


def rescale_boxes(boxes: Tensor, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Return boxes ``[..., 4]`` of an image of ``size`` in pixels of the ``original`` size."""
    old, new = (boxes.new_tensor((sides[1], sides[0]) * 2) for sides in (original, size))
    return boxes / (new / old)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) * 0.5, last - first
