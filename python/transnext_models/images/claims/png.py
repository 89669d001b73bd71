"""PNG: the canvas of an animation, and compressed texts (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from .claim import MOST_BLOCKS, Claim, ClaimError, unpack

# What Pillow unpacks at most of a text; of what that is packed to, there is hardly ever more.
_TEXT_BYTES, _PACKED_TEXT_BYTES = 1 << 20, 2 << 20
_MOST_TEXT_BYTES = 4 << 20
_GREY, _PALETTE = 0, 3


def read(file: BinaryIO, length: int) -> Claim:
    """Go through the chunks of a PNG file: the sum of its texts, and whether it is animated."""
    file.seek(8)
    size, bytes_per_pixel, texts, animated, in_header = None, 0, 0, False, True
    for _ in range(MOST_BLOCKS):
        header = file.read(8)
        if len(header) < 8:
            break
        chunk_bytes, kind = struct.unpack(">I4s", header)
        following = file.tell() + chunk_bytes + 4
        if kind == b"IHDR" and in_header:
            width, height, depth, colour = unpack(file, ">IIBB")
            size, bytes_per_pixel = (width, height), _pixel(depth, colour)
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            texts += _text_bytes(kind, file.read(min(chunk_bytes, _PACKED_TEXT_BYTES)))
            if texts > _MOST_TEXT_BYTES:
                raise ClaimError(f"its texts unpack to more than {_MOST_TEXT_BYTES >> 20} MiB")
        elif kind == b"acTL":
            animated = True
        elif kind == b"IDAT":
            in_header = False
        elif kind == b"IEND":
            break
        file.seek(following)
    else:
        raise ClaimError(f"it has more than {MOST_BLOCKS:,} chunks")
    if size is None:
        return Claim()
    # Of an animation older Pillow makes the frame before and what replaces it as it opens the file.
    return Claim(3 * texts, size, 3 * bytes_per_pixel if animated else bytes_per_pixel)


def _pixel(depth: int, colour: int) -> int:
    """Return Pillow's bytes per pixel; 16-bit grey is 32 bits in its older versions."""
    return 1 if colour in (_GREY, _PALETTE) and depth <= 8 else 4


def _text_bytes(kind: bytes, data: bytes) -> int:
    """Return how much a chunk of text unpacks to, as far as Pillow unpacks it."""
    packed = data.partition(b"\0")[2]
    if kind == b"iTXt":  # whether it is packed, how, language and keyword come before the text
        if packed[:1] in (b"", b"\0"):
            return 0
        packed = packed[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        packed = packed[1:]
    try:
        return len(zlib.decompressobj().decompress(packed, _TEXT_BYTES))
    except zlib.error:
        return 0
