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
    def of(cls, bitmap: NDArray[Any]) -> RunLengths:
        """Return the run lengths of uint8 or bool [h, w]."""
        return cls.of_part(bitmap, (0, 0), (bitmap.shape[0], bitmap.shape[1]))

    @classmethod
    def of_part(cls, part: NDArray[Any], corner: tuple[int, int], size: Size) -> RunLengths:
        """Return the run lengths of an image that is 0 outside a part of it.

        Parameters
        ----------
        part : ndarray
            uint8 or bool ``[h, w]``.
        corner : (int, int)
            Row and column of its upper left pixel in the image.
        size : (int, int)
            Height and width of the image.
        """
        columns = np.pad(np.asarray(part, bool).T, ((0, 0), (1, 1)))
        column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
        edges = (corner[1] + column) * size[0] + corner[0] + row  # where runs of ones start, end
        # A run that reaches the bottom goes on at the top of the next column.
        joined = 2 * np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([joined + 1, joined + 2]))
        counts = np.diff(np.concatenate([[0], edges, [size[0] * size[1]]]))
        return cls(counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts, size)

    @property
    def area(self) -> int:
        """How many ones there are."""
        return int(self.counts[1::2].sum())

    def bitmap(self, size: Size | None = None) -> Bitmap:
        """Return uint8 [h, w] of zeros and ones; `size` is known already."""
        height, width = self.size
        return np.ascontiguousarray(self.part((0, height), (0, width)))

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Bitmap:
        """Return uint8 of zeros and ones in rows and columns, each from … up to, without, ….

        In memory and time of the columns alone.
        """
        start, stop = (column * self.size[0] for column in columns)
        ends = np.cumsum(self.counts)
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop) + 1
        lengths = np.diff(np.concatenate([[start], np.clip(ends[first:last], start, stop)]))
        values = np.repeat(np.arange(first, first + len(lengths)) % 2, lengths).astype(np.uint8)
        return values.reshape(columns[1] - columns[0], self.size[0]).T[rows[0] : rows[1]]

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
