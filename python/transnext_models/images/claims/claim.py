"""A claim, and how it is read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_BLOCKS = 100_000  # chunks, segments, extensions before the pixels; strips or tiles of them


class ClaimError(ValueError):
    """A file claims what no honest one does; the message says what."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a header says.

    Attributes
    ----------
    extra_bytes : int
        Memory that decoding takes beside the pixels.
    size, bytes_per_pixel : tuple[int, int] | None, int | None
        Width and height, and memory of a pixel, where a decoder makes room for pixels as soon as it
        opens a file; None elsewhere: there the decoder is asked.
    """

    extra_bytes: int = 0
    size: tuple[int, int] | None = None
    bytes_per_pixel: int | None = None


def unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    """Read values in the layout of `struct`; struct.error where the file ends."""
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
