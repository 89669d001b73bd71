"""Where tokens and pooled cells lie on the image, in pixels.

The patch embeddings are convolutions with an odd kernel, centred padding and strides 4, 2, 2, 2:
token i of a stage is centred on pixel ``stride * i``, not on the middle of a cell of that width. A
plain resize of a map to the image's size would be off by ``(stride - 1) / 2`` pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bin_spans", "pixel_of", "spread", "token_at", "token_spans"]


def token_at(pixel: tuple[float, float], stride: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the token ``(i, j)`` whose centre is next to a pixel ``(y, x)``, inside the grid."""
    row, column = (
        min(max(round(place / stride), 0), size - 1)
        for place, size in zip(pixel, grid, strict=True)
    )
    return row, column


def pixel_of(position: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the pixel ``(y, x)`` on which token ``(i, j)`` is centred."""
    return position[0] * stride, position[1] * stride


def token_spans(tokens: int, stride: int) -> Tensor:
    """Return the pixels of each token of an axis, float64 ``[tokens, 2]``, as [first, end)."""
    centre = torch.arange(tokens, dtype=torch.float64) * stride
    return torch.stack((centre - stride / 2, centre + stride / 2), 1)


def bin_spans(tokens: int, bins: int, stride: int) -> Tensor:
    """Return the pixels of each bin of adaptive pooling, float64 ``[bins, 2]``, as [first, end).

    Bin a pools tokens ``floor(a * tokens / bins)`` to ``ceil((a + 1) * tokens / bins) - 1``; where
    the tokens do not divide, neighbouring bins overlap.
    """
    index = torch.arange(bins)
    first = index * tokens // bins
    last = ((index + 1) * tokens + bins - 1) // bins - 1
    spans = token_spans(tokens, stride)
    return torch.stack((spans[first, 0], spans[last, 1]), 1)


def spread(spans: Tensor, image: int, size: int) -> Tensor:
    """Return the matrix that spreads a weight per span evenly over its pixels of an axis.

    Parameters
    ----------
    spans : float64 [n, 2]
        In pixels of the image; what lies outside is cut off.
    image : int
        Pixels of the image on this axis.
    size : int
        Pixels of the picture to draw, onto which the image is scaled.

    Returns
    -------
    float64 [size, n]
        Every column sums to 1.
    """
    edges = spans.clamp(0, image) * (size / image)
    left = torch.arange(size, dtype=torch.float64)[:, None]
    covered = torch.minimum(left + 1, edges[:, 1]) - torch.maximum(left, edges[:, 0])
    return covered.clamp(min=0) / (edges[:, 1] - edges[:, 0])
