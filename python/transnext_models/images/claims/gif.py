"""GIF: the canvas, and what replaces a frame (GIF89a specification)."""

from __future__ import annotations

from typing import BinaryIO

from PIL import GifImagePlugin
from PIL.GifImagePlugin import LoadingStrategy

from .claim import MOST_BLOCKS, Claim, ClaimError, unpack

_IMAGE, _EXTENSION, _TRAILER, _GRAPHIC_CONTROL = 0x2C, 0x21, 0x3B, 0xF9


def read(file: BinaryIO, length: int) -> Claim:
    """Go through the blocks of a GIF file up to its first frame."""
    file.seek(6)
    width, height, flags = unpack(file, "<HHB2x")
    if flags & 0x80:  # a palette
        file.seek(3 << ((flags & 7) + 1), 1)
    replaced = False
    for _ in range(MOST_BLOCKS):
        (kind,) = unpack(file, "B")
        if kind == _IMAGE:
            left, top, across, down = unpack(file, "<4H")
            size = max(width, left + across), max(height, top + down)
            # Pillow makes what replaces a frame together with it, in colour where it may be
            # transparent.
            pixel = 1 if GifImagePlugin.LOADING_STRATEGY != LoadingStrategy.RGB_ALWAYS else 4
            return Claim(0, size, pixel + 4 if replaced else pixel)
        if kind == _TRAILER:
            return Claim()
        if kind != _EXTENSION:  # passed over
            continue
        label, count = unpack(file, "BB")
        if label == _GRAPHIC_CONTROL and count:
            (flags,) = unpack(file, "B")
            replaced = replaced or (flags >> 2) & 7 >= 2
            count -= 1
        while count:
            file.seek(count, 1)
            (count,) = unpack(file, "B")
    raise ClaimError(f"it has more than {MOST_BLOCKS:,} extensions before its pixels")
