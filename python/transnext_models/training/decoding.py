"""Encoded images to RGB: whole as published, or JPEGs at a fraction of their size.

Pillow decodes JPEGs with libjpeg-turbo, as every other fast library does, to the same bits. What
it does beside decoding matters: a copy of an image that is RGB already, and many small reads.
"""

from __future__ import annotations

import contextlib
import math
from typing import BinaryIO

from PIL import Image, ImageFile, features

from ..images import memory
from ..images.formats import readable_formats
from ..images.quiet import quiet

__all__ = ["decode", "jpeg_library"]

# timm's random resized crop takes 8 % of the area at least, at an aspect of 3/4 at most.
_SMALLEST_CROP = math.sqrt(0.08 * 3 / 4)
_FRACTIONS = (8, 4, 2)  # that a JPEG's blocks can be decoded at, as the whole over them
_BLOCK_BYTES = 1 << 20  # read at once; in Pillow's 64 KiB, photographs cost a fifth more time


def decode(source: BinaryIO, crop_size: int | None = None) -> Image.Image:
    """Decode a file, which is closed, to RGB, as the published training does: without EXIF.

    Parameters
    ----------
    source : BinaryIO
        Of an image.
    crop_size : int | None
        Side in pixels that a random crop of the image is resized to: a JPEG is then decoded at
        1/2, 1/4 or 1/8 of its size where its smallest crop still has more pixels. None for whole
        images.
    """
    with (
        contextlib.closing(source),
        quiet(),
        Image.open(source, formats=readable_formats()) as opened,
    ):
        memory.check_size(opened.size)
        if opened.format in ("JPEG", "MPO") and isinstance(opened, ImageFile.ImageFile):
            opened.decodermaxblock = _BLOCK_BYTES
            if crop_size is not None:
                _scale(opened, crop_size)
        opened.load()
        return opened if opened.mode == "RGB" else opened.convert("RGB")


def jpeg_library() -> str:
    """Return what decodes JPEGs here, and its version: another one may differ by bits."""
    for name, described in (("libjpeg_turbo", "libjpeg-turbo"), ("jpg", "libjpeg")):
        version = features.version(name)
        if version is not None:
            return f"{described} {version}"
    return "none"


def _scale(opened: ImageFile.ImageFile, crop_size: int) -> None:
    """Have a JPEG decoded at the smallest fraction that is enough for its crops."""
    width, height = opened.size
    smallest = _SMALLEST_CROP * math.sqrt(width * height)
    for fraction in _FRACTIONS:
        if smallest >= fraction * crop_size:
            opened.draft(None, (width // fraction, height // fraction))
            return
