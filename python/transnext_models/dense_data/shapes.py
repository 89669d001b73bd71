"""Masks of objects as files hold them, polygons or run lengths, and as bitmaps.

Polygons are filled by pycocotools, whose rounding the published results have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import Bitmap, RunLengths, Size, run_lengths_of
from ..training.sources.requirements import needed

__all__ = ["Polygons", "Shape", "polygon_area", "polygons_of"]

_SMALLEST_POLYGON = 6  # numbers of a triangle


class Polygons(NamedTuple):
    """An object's outline: for each part float64 [2·k], x and y in turn, in pixels."""

    parts: tuple[NDArray[np.float64], ...]

    def bitmap(self, size: Size) -> Bitmap:
        """Return uint8 [h, w] of zeros and ones."""
        mask = needed("pycocotools.mask", "dense", "filling polygons")
        # Far outside an image an outline costs time and changes no pixel of it.
        reach = float(4 * max(size))
        parts = [part.clip(-reach, reach).tolist() for part in self.parts]
        return run_lengths_of(mask.merge(mask.frPyObjects(parts, *size)), size).bitmap()


Shape = Polygons | RunLengths


def polygons_of(value: Sequence[Any]) -> Polygons:
    """Check and return COCO's polygons, lists of x and y in turn.

    Raises
    ------
    ValueError
        A part has fewer than three points, an odd count, or what is no finite number.
    """
    parts = []
    for number, part in enumerate(value):
        if not isinstance(part, list | tuple | np.ndarray):
            raise ValueError(f"polygon {number}: got {type(part).__name__}, needs a list")
        if len(part) < _SMALLEST_POLYGON or len(part) % 2:
            raise ValueError(
                f"polygon {number}: got {len(part)} numbers, needs an even count from 6 on"
            )
        try:
            points = np.array(part, np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.array([np.nan])
        if points.ndim != 1 or not np.isfinite(points).all():
            raise ValueError(f"polygon {number}: needs finite numbers only")
        parts.append(points)
    if not parts:
        raise ValueError("got no polygon")
    return Polygons(tuple(parts))


def polygon_area(shape: Polygons) -> float:
    """Return the area of the parts, in pixels."""
    total = 0.0
    for part in shape.parts:
        x, y = part[0::2], part[1::2]
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return total
