"""How much memory images may take while they are decoded, over all threads together."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from PIL import ExifTags, Image, TiffImagePlugin

from .errors import Unreadable
from .forks import after_fork

MAX_PIXELS = 178_956_970  # what Pillow takes for a bomb by default; other code can change its limit
MAX_SIDE = 1_000_000  # the coefficients that resize an image take 32 bytes per row and column
DECODING_BYTES = 448 << 20
_KEPT_BYTES = 16 << 20  # of an image, more is given back to the system
STRIP_PIXELS = 1 << 20  # what is brought to RGB at a time
_STRIP_BYTES = 16  # per pixel: its pixels as they were, RGBA, white below them, RGB

_CHANNEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_PIXEL_BYTES = 4  # of all other modes
_ROW_BYTES = 16  # a row is filled up to 4 bytes, and found by a pointer
# What decoders hold beside the pixels, per pixel, measured: frames and copies of them.
_DECODER_BYTES = {"WEBP": 12, "AVIF": 12, "HEIF": 5}
_HEIF_ALPHA_BYTES = 3
# Of a run-length BMP, pixels are collected twice, and a run may go on below the image.
_RUN_LENGTHS, _RUN_BYTES, _RUN_ROWS = (1, 2), 3, 600


class MemoryBudget:
    """So many bytes, shared by threads: each waits until what it needs is free.

    Parameters
    ----------
    total : int
        Bytes in all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.renew()

    def renew(self) -> None:
        """Forget who holds what."""
        self._free = self.total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Hold `needed` bytes; Unreadable where there are not as many in all."""
        if needed > self.total:
            raise Unreadable(
                f"would take {_mib(needed)} MiB to decode, more than the image memory of "
                f"{_mib(self.total)} MiB"
            )
        with self._changed:
            self._changed.wait_for(lambda: needed <= self._free)
            self._free -= needed
        try:
            yield
        finally:
            if needed > _KEPT_BYTES:
                _return_freed_memory()
            with self._changed:
                self._free += needed
                self._changed.notify_all()


DECODING = MemoryBudget(DECODING_BYTES)
after_fork(DECODING.renew)


def _return_freed_memory() -> None:
    """Have the C library return what was freed to the system.

    glibc keeps it for each thread on its own, so that threads which decode one after the other
    would hold as much as if all did at once.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none, and keeps nothing


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20)):,}"


def check_size(size: tuple[int, int]) -> None:
    """Raise Unreadable where an image of (width, height) has more pixels than are taken."""
    if size[0] * size[1] > MAX_PIXELS:
        raise Unreadable(too_many_pixels(MAX_PIXELS))
    if max(size) > MAX_SIDE:
        raise Unreadable(f"more than {MAX_SIDE:,} pixels on a side")


def too_many_pixels(limit: int) -> str:
    """Say that an image has more than `limit` pixels."""
    return f"more than {limit // 1_000_000 or limit / 1_000_000} million pixels"


def bytes_of(size: tuple[int, int], bytes_per_pixel: int) -> int:
    """Return the memory of an image of (width, height) in Pillow's layout."""
    return size[0] * size[1] * bytes_per_pixel + size[1] * _ROW_BYTES


def decoding_bytes(image: Image.Image) -> int:
    """Return what it takes to decode an image that was opened, before it is."""
    pixel = pixel_bytes(image.mode) + _DECODER_BYTES.get(image.format or "", 0)
    if image.format == "HEIF" and image.mode == "RGBA":
        pixel += _HEIF_ALPHA_BYTES
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        return bytes_of(image.size, pixel + _RUN_BYTES) + _RUN_ROWS * image.width
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_rotated(image):
        pixel *= 2
    return bytes_of(image.size, pixel)


def _is_rotated(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether Pillow turns a TIFF image as it decodes it, to a copy."""
    return image.tag_v2.get(ExifTags.Base.Orientation, 1) != 1


def pixel_bytes(mode: str) -> int:
    """Return the bytes of one pixel of a Pillow mode in memory."""
    return _CHANNEL_BYTES.get(mode, _PIXEL_BYTES)


def strip_bytes(size: tuple[int, int]) -> int:
    """Return what it takes to bring an image of (width, height) to RGB strip by strip."""
    width, height = size
    pixels = min(width * height, max(STRIP_PIXELS, width, height))
    return _STRIP_BYTES * pixels + 4 * _ROW_BYTES * height
