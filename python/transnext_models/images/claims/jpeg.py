"""JPEG: coefficients that are kept, and EXIF data in its segments (ITU T.81, EXIF 2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .claim import MOST_BLOCKS, Claim, ClaimError, unpack
from .tiff import check_exif

_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_FRAMES = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
_EXIF, _MULTI_PICTURE, _SCAN = 0xE1, 0xE2, 0xDA
# As Pillow reads them: of these it does not pass over what a length would say, others end it.
_WITHOUT_LENGTH = {0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}
_UNKNOWN = range(0x01, 0xC0)
_COEFFICIENT_BYTES = 2
# Pillow joins the segments of EXIF data one by one: bytes times segments are copied.
_MOST_EXIF_COPIED = 1 << 30
_MOST_JUNK = 1 << 20  # bytes between segments


def read(file: BinaryIO, length: int) -> Claim:
    """Go through the segments of a JPEG file up to its first scan.

    If that does not hold everything, as in a progressive file, all coefficients are kept.
    """
    pixels, layers, samples, sequential = 0, 0, 0.0, False
    exif: list[bytes] = []
    for marker, count in _segments(file):
        if marker in _FRAMES:
            height, width, layers = unpack(file, ">xHHB")
            sampling = [byte for (byte,) in (unpack(file, "xBx") for _ in range(layers))]
            areas = [(byte >> 4) * (byte & 15) for byte in sampling]
            samples = sum(areas) / max([1, *areas])
            pixels, sequential = width * height, marker in _SEQUENTIAL
        elif marker == _EXIF:
            segment = file.read(count)
            if segment.startswith(b"Exif\0\0"):
                exif.append(segment[6:])
                if len(exif) * sum(map(len, exif)) > _MOST_EXIF_COPIED:
                    raise ClaimError("it has too many segments of EXIF data")
        elif marker == _MULTI_PICTURE:
            segment = file.read(count)
            if segment.startswith(b"MPF\0"):
                check_exif(segment[4:])
        elif marker == _SCAN:
            check_exif(b"".join(exif))
            (in_scan,) = unpack(file, "B")
            if sequential and in_scan == layers:
                return Claim()
            return Claim(round(pixels * samples * _COEFFICIENT_BYTES))
    return Claim()


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the marker and the length of each segment, the file standing at its content."""
    file.seek(2)
    junk = 0
    for _ in range(MOST_BLOCKS):
        while (byte := file.read(1)) not in (b"\xff", b""):
            junk += 1
            if junk > _MOST_JUNK:
                raise ClaimError("there is junk between its segments")
        while byte == b"\xff":  # any number may stand before a marker
            byte = file.read(1)
        if not byte or byte[0] in _UNKNOWN:
            return
        if byte[0] in _WITHOUT_LENGTH:
            continue
        (count,) = unpack(file, ">H")
        following = file.tell() + count - 2
        yield byte[0], count - 2
        file.seek(following)
    raise ClaimError(f"it has more than {MOST_BLOCKS:,} segments before its pixels")
