"""What an image file says of itself, read before a decoder acts on it.

A decoder believes a header: it makes room for the tiles, texts and directories that the file
claims, before or while the header is read. So the claims are summed up first, from the few bytes
that hold them: what no honest file says is refused, the rest is counted as memory
(`memory.py`). Files of other formats, and damaged ones, claim nothing; the decoder judges them.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from . import gif, heif, jpeg, png, tiff
from .claim import Claim, ClaimError
from .tiff import check_exif

__all__ = ["Claim", "ClaimError", "check_exif", "read_claim"]

_READERS = {
    b"\x89PNG\r\n\x1a\n": png.read,
    b"\xff\xd8\xff": jpeg.read,
    b"GIF87a": gif.read,
    b"GIF89a": gif.read,
    b"II": tiff.read,
    b"MM": tiff.read,
}


def read_claim(file: BinaryIO, length: int) -> Claim:
    """Return what the header of a seekable file of `length` bytes claims.

    Raises
    ------
    ClaimError
        If that is what no honest file says.
    """
    file.seek(0)
    start = file.read(8)
    for magic, read in _READERS.items():
        if start.startswith(magic):
            try:
                return read(file, length)
            except struct.error:  # cut short
                return Claim()
    return heif.read(file, length) if start[4:] == b"ftyp" else Claim()
