"""Resizing as OpenCV does it on uint8, value for value, in NumPy.

The published models were trained on images that ``cv2.resize`` had made, whose bilinear filter
neither smooths nor rounds as Pillow's or torch's. It works in fixed point: weights of 11 bits,
rows first, and a vertical pass that drops low bits before it adds. Masks and label maps take its
nearest neighbour, which rounds down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fitting_size", "resize_bilinear", "resize_nearest"]

Size = tuple[int, int]  # height, width

_WEIGHT_ONE = 1 << 11
_ROWS_AT_A_TIME = 32  # whose int32 intermediate results stay in the cache


def fitting_size(size: Size, scale: Sequence[int]) -> Size:
    """Return the largest (height, width) of the same ratio within a long and a short side.

    Parameters
    ----------
    size : tuple[int, int]
        Height and width.
    scale : Sequence[int]
        The two sides, in either order.
    """
    height, width = size
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_bilinear(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize uint8 [h, w, c] to [*size, c] as ``cv2.resize(…, INTER_LINEAR)``."""
    height, width, channels = image.shape
    if size == (height, width):
        return image.copy()
    if (height, width) == (2 * size[0], 2 * size[1]):  # OpenCV takes the mean of four here
        sums = image.reshape(size[0], 2, size[1], 2, channels).sum((1, 3), dtype=np.int32)
        return ((sums + 2) >> 2).astype(np.uint8)
    left, right, left_weight, right_weight = _taps(width, size[1], one_tap_at_edges=True)
    above, below, above_weight, below_weight = _taps(height, size[0], one_tap_at_edges=False)

    # One value per channel: gathering along a flat row is faster than along pixels.
    channel = np.arange(channels)
    columns = [(side[:, None] * channels + channel).reshape(-1) for side in (left, right)]
    weights = [np.repeat(weight, channels) for weight in (left_weight, right_weight)]
    rows = image.reshape(height, width * channels)
    wide = np.empty((height, size[1] * channels), np.int32)
    for first in range(0, height, _ROWS_AT_A_TIME):
        part = rows[first : first + _ROWS_AT_A_TIME]
        target = wide[first : first + _ROWS_AT_A_TIME]
        np.multiply(part.take(columns[0], 1), weights[0], out=target)
        target += part.take(columns[1], 1) * weights[1]
        target >>= 4

    result = np.empty((size[0], size[1] * channels), np.uint8)
    for first in range(0, size[0], _ROWS_AT_A_TIME):
        part_of = slice(first, first + _ROWS_AT_A_TIME)
        total = wide.take(above[part_of], 0)
        total *= above_weight[part_of, None]
        total >>= 16
        lower = wide.take(below[part_of], 0)
        lower *= below_weight[part_of, None]
        lower >>= 16
        total += lower
        total += 2
        total >>= 2
        result[part_of] = total
    return result.reshape(*size, channels)


def resize_nearest(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resize ``[..., h, w]`` to ``[..., *size]`` as ``cv2.resize(…, INTER_NEAREST)``."""
    rows, columns = (_nearest(*sides) for sides in zip(image.shape[-2:], size, strict=True))
    return image[..., rows[:, None], columns]


def _taps(source: int, target: int, *, one_tap_at_edges: bool) -> tuple[NDArray[Any], ...]:
    """Return the two neighbours of each target pixel along an axis, and their integer weights.

    Beyond the centres of the outermost pixels both neighbours are the same; along rows OpenCV then
    gives all weight to one, between rows it does not, which its low bits show.
    """
    centre = (np.arange(target) + 0.5) * (1 / (target / source)) - 0.5
    position = centre.astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    if one_tap_at_edges:
        fraction[(first < 0) | (first >= source - 1)] = 0
    weights = [
        np.rint(share * np.float32(_WEIGHT_ONE)).astype(np.int32)
        for share in (np.float32(1) - fraction, fraction)
    ]
    return first.clip(0, source - 1), (first + 1).clip(0, source - 1), *weights


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    position = np.floor(np.arange(target) * (1 / (target / source))).astype(np.int64)
    return np.minimum(position, source - 1)
