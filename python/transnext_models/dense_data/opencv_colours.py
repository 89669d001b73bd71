"""RGB to HSV and back as OpenCV does it on uint8, hue in 0…179.

To HSV in fixed point of 12 bits, with a table of reciprocals. Back in float32, which OpenCV cuts
off in whole registers of a row and rounds in the rest of it. Registers are those of AVX-512 here,
64 pixels; with AVX2, of 32, other pixels of some rows differ by one, none where rows are of 512.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["HUES", "hsv_to_rgb", "rgb_to_hsv"]

HUES = 180
_SHIFT = 12
_BLOCK = 64
_HALF = 1 << (_SHIFT - 1)
_VALUES = np.maximum(np.arange(256), 1)
# By value and by difference; a grey pixel has saturation 0 and hue 0 whatever these say.
_SATURATION = np.rint((255 << _SHIFT) / _VALUES).astype(np.int32)
_HUE = np.rint((HUES << _SHIFT) / (6.0 * _VALUES)).astype(np.int32)
# For each sixth of the circle, which of (v, p, q, t) are red, green and blue.
_SECTORS = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])


def rgb_to_hsv(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3] as hue 0…179, saturation and value 0…255."""
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    difference = value - np.minimum(np.minimum(red, green), blue)
    sector = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * difference, red - green + 4 * difference),
    )
    hue = (sector * _HUE[difference] + _HALF) >> _SHIFT
    hue[hue < 0] += HUES
    saturation = (difference * _SATURATION[value] + _HALF) >> _SHIFT
    return np.stack([hue, saturation, value], -1).astype(np.uint8)


def hsv_to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the inverse of `rgb_to_hsv`, but for what rounding takes."""
    one = np.float32(1)
    hue = image[..., 0].astype(np.float32) * np.float32(6 / HUES)
    saturation = image[..., 1].astype(np.float32) * np.float32(1 / 255)
    value = image[..., 2].astype(np.float32) * np.float32(1 / 255)
    sector = hue.astype(np.int64)
    fraction = hue - sector.astype(np.float32)
    shades = np.stack(
        [
            value,
            value * (one - saturation),
            value * _rest(saturation, fraction),
            value * _rest(saturation, one - fraction),
        ],
        -1,
    )
    result = np.take_along_axis(shades, _SECTORS[sector % 6], -1) * np.float32(255)
    rounded_from = image.shape[1] // _BLOCK * _BLOCK
    np.rint(result[:, rounded_from:], out=result[:, rounded_from:])
    return result.astype(np.uint8)


def _rest(saturation: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``1 - saturation · share`` rounded once, as a fused multiply-add does."""
    return (1 - saturation.astype(np.float64) * share).astype(np.float32)
