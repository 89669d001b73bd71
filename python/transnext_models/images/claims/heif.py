"""HEIF and AVIF: EXIF data, which older Pillow unpacks as it opens a file (ISO/IEC 14496-12)."""

from __future__ import annotations

from typing import BinaryIO

from .claim import Claim, ClaimError
from .tiff import check_exif

_MOST_PLACES = 64


def read(file: BinaryIO, length: int) -> Claim:
    """Check whatever looks like EXIF data, wherever it lies: items may be anywhere."""
    file.seek(0)
    data = file.read()
    count = 0
    for magic in (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"):
        offset = data.find(magic)
        while offset >= 0:
            count += 1
            if count > _MOST_PLACES:
                raise ClaimError(f"it has EXIF data in more than {_MOST_PLACES:,} places")
            check_exif(data[offset:])
            offset = data.find(magic, offset + 1)
    return Claim()
