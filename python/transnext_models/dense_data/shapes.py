"""Masks of objects as files hold them, polygons or run lengths, and as bitmaps.

Run lengths are COCO's: counts of zeros and ones in turn down the columns, as a list, or packed in
text with 5 bits a character. Polygons are filled by pycocotools, whose rounding the published
results have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..training.sources.requirements import needed

__all__ = [
    "Bitmap",
    "Polygons",
    "RunLengths",
    "Shape",
    "Size",
    "polygon_area",
    "polygons_of",
    "run_lengths_of",
]

Size = tuple[int, int]  # height, width
Bitmap = NDArray[np.uint8]

_SMALLEST_POLYGON = 6  # numbers of a triangle
_BITS, _MORE, _SIGN, _FIRST = 5, 0x20, 0x10, 48
_LONGEST_COUNT = 7  # characters of a 32-bit number


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


class RunLengths(NamedTuple):
    """Counts of zeros and ones in turn, down the columns of an image of `size`."""

    counts: NDArray[np.int64]
    size: Size

    @classmethod
    def of(cls, bitmap: Bitmap) -> RunLengths:
        """Return the run lengths of uint8 or bool [h, w]."""
        flat = np.asarray(bitmap, bool).T.reshape(-1)
        changes = np.flatnonzero(np.diff(flat, prepend=False)) if flat.size else np.zeros(0, int)
        edges = np.concatenate([[0], changes, [flat.size]])
        height, width = bitmap.shape
        return cls(np.diff(edges), (height, width))

    def bitmap(self, size: Size | None = None) -> Bitmap:
        """Return uint8 [h, w] of zeros and ones; `size` is known already."""
        values = np.repeat(np.arange(len(self.counts)) % 2, self.counts).astype(np.uint8)
        return np.ascontiguousarray(values.reshape(self.size[::-1]).T)

    def packed(self) -> str:
        """Return the counts as text, as COCO packs them."""
        text = []
        counts = self.counts.tolist()
        for index, count in enumerate(counts):
            rest = count - counts[index - 2] if index > 2 else count
            while True:
                part = rest & (_MORE - 1)
                rest >>= _BITS
                more = rest != -1 if part & _SIGN else rest != 0
                text.append(chr((part | _MORE if more else part) + _FIRST))
                if not more:
                    break
        return "".join(text)


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


def run_lengths_of(value: dict[str, Any], size: Size) -> RunLengths:
    """Check and return COCO's run lengths of either kind, of an image of `size`.

    Raises
    ------
    ValueError
        They are of another size, or do not fill it.
    """
    stated = value.get("size")
    if not isinstance(stated, list | tuple) or tuple(stated) != size:
        raise ValueError(f"mask: got size {stated}, needs the image's [{size[0]}, {size[1]}]")
    counts = value.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("mask: got no list of counts")
    pixels = size[0] * size[1]
    # Python's numbers: they may be of any size until they are known to fill the image.
    if any(count < 0 for count in counts) or sum(counts) != pixels:
        raise ValueError(f"mask: got counts that do not add up to its {pixels} pixels")
    return RunLengths(np.array(counts, np.int64), size)


def _unpacked(text: str) -> list[int]:
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - _FIRST
        if not 0 <= code < 2 * _MORE or shift >= _LONGEST_COUNT * _BITS:
            raise ValueError("mask: got counts that are no packed run lengths")
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("mask: got counts that end in the middle of one")
    return counts


def polygon_area(shape: Polygons) -> float:
    """Return the area of the parts, in pixels."""
    total = 0.0
    for part in shape.parts:
        x, y = part[0::2], part[1::2]
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return total
