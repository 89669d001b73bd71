"""Masks of objects as COCO's run lengths, and as bitmaps.

Counts of zeros and ones in turn down the columns, as a list, or packed in text with 5 bits a
character.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bitmap", "RunLengths", "Size", "run_lengths_of"]

Size = tuple[int, int]  # height, width
Bitmap = NDArray[np.uint8]

_BITS, _MORE, _SIGN, _FIRST = 5, 0x20, 0x10, 48
_LONGEST_COUNT = 7  # characters of a 32-bit number


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
