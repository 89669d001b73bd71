"""TIFF: the buffer of a strip or tile, and directories; EXIF data, which are a directory alone.

Source: the TIFF 6.0 and BigTIFF specifications.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .claim import MOST_BLOCKS, Claim, ClaimError, unpack

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
_POINTERS = (34665, 34853, 40965)  # to directories: EXIF, GPS, interoperability
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 259, 262, 277
_STRIP_OFFSETS, _ROWS_PER_STRIP = 273, 278
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 322, 323, 324
_UNCOMPRESSED, _COLOUR_DIFFERENCE = 1, 6
# Fax, LZW, deflate, run lengths, LZMA, Zstandard; others (JPEG, WebP) have buffers of their own.
_IN_PLACE = (2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_OWN_BYTES = 8  # per sample


def read(file: BinaryIO, length: int) -> Claim:
    """Count the buffer of one strip or tile, whatever of it lies outside of the image."""
    file.seek(2)
    # Pillow and libtiff do not agree on big-endian BigTIFF: what either sees is counted.
    kinds = (False, True) if b"\x2b" in file.read(2) else (False,)
    return Claim(max(_strip_bytes(file, length, big) for big in kinds))


def _strip_bytes(file: BinaryIO, length: int, big: bool) -> int:
    try:
        directories = _directories(file, length, big)
        image = next(directories, None)
        for _ in directories:  # the others are checked as they come
            pass
    except struct.error:  # cut short
        return 0
    if image is None:
        return 0
    for tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
        if image.count(tag) > MOST_BLOCKS:
            raise ClaimError(f"it has more than {MOST_BLOCKS:,} strips or tiles")
    width, height = image.value(_WIDTH, 0), image.value(_LENGTH, 0)
    pixels = width * min(height, image.value(_ROWS_PER_STRIP, height))
    if image.count(_TILE_WIDTH):
        pixels = max(pixels, image.value(_TILE_WIDTH, 0) * image.value(_TILE_LENGTH, 0))
    samples, compression = image.value(_SAMPLES, 1), image.value(_COMPRESSION, _UNCOMPRESSED)
    bytes_per_pixel = -(-image.value(_BITS, 1) * samples // 8)
    if image.value(_PHOTOMETRIC, 0) == _COLOUR_DIFFERENCE:
        bytes_per_pixel = max(bytes_per_pixel, 4)
    if compression not in _IN_PLACE:
        bytes_per_pixel += _OWN_BYTES * samples
    return 0 if compression == _UNCOMPRESSED else pixels * bytes_per_pixel


def check_exif(data: bytes) -> None:
    """Raise ClaimError where EXIF data unpack to many times their length."""
    data = data.removeprefix(b"Exif\0\0")
    with contextlib.suppress(struct.error):
        for _ in _directories(io.BytesIO(data), len(data), big=data[2:3] == b"\x2b"):
            pass


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory: the type of its values, how many, and where they lie."""

    kind: int
    count: int
    offset: int

    @property
    def length(self) -> int:
        return self.count * _TYPE_BYTES.get(self.kind, 0)


class _Directory:
    """One directory of a TIFF file, as it says itself.

    Of a tag that stands there several times decoders take the first or the last; here it is the
    largest.
    """

    def __init__(self, file: BinaryIO, length: int, order: str, big: bool, offset: int) -> None:
        self.file, self.length, self.order = file, length, order
        self.entries: dict[int, list[_Entry]] = {}
        number, inline = ("Q", 8) if big else ("I", 4)
        file.seek(offset)
        (entries,) = unpack(file, order + ("Q" if big else "H"))
        if entries > MOST_BLOCKS:
            raise ClaimError(f"it has a directory of {entries:,} entries")
        with contextlib.suppress(struct.error):  # what is there of one that is cut short
            for _ in range(entries):
                tag, kind, count = unpack(file, f"{order}HH{number}")
                here = file.tell()
                (offset,) = unpack(file, order + number)
                entry = _Entry(kind, count, offset)
                if entry.length <= inline:
                    entry = _Entry(kind, count, here)
                self.entries.setdefault(tag, []).append(entry)

    def count(self, tag: int) -> int:
        """Return the number of values of an entry."""
        return max((entry.count for entry in self.entries.get(tag, ())), default=0)

    def value(self, tag: int, default: int) -> int:
        """Return the first integer of an entry."""
        found = []
        for entry in self.entries.get(tag, ()):
            if entry.count and entry.kind in _INTEGERS and entry.offset < self.length:
                self.file.seek(entry.offset)
                found.append(unpack(self.file, self.order + _INTEGERS[entry.kind])[0])
        return int(max(found, default=default))

    def bytes_kept(self) -> int:
        """Return what its entries take in memory; those that overlap are kept again and again."""
        lengths = (
            max((e.length for e in entries if e.offset + e.length <= self.length), default=0)
            for entries in self.entries.values()
        )
        return sum(lengths)


def _directories(file: BinaryIO, length: int, big: bool) -> Iterator[_Directory]:
    """Yield the first directory of a TIFF file and those that it and they point to.

    Raises
    ------
    ClaimError
        If one unpacks to much more than the file.
    """
    file.seek(0)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return
    (offset,) = unpack(file, order + ("6xQ" if big else "2xI"))
    seen: set[int] = set()
    following = [int(offset)]
    while following:
        offset = following.pop()
        if offset in seen or offset >= length:
            continue
        seen.add(offset)
        directory = _Directory(file, length, order, big, offset)
        if directory.bytes_kept() > 4 * length + (1 << 16):
            raise ClaimError("its directory unpacks to many times the file")
        yield directory
        following += [directory.value(tag, 0) for tag in _POINTERS if directory.count(tag)]
