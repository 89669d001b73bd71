"""The image formats that are read, and their names' suffixes."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

# The plugins are imported by name: only these formats are opened, so that no image file can make
# Pillow start another program (EPS) or use a decoder nobody asked for.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jfif", ".jpe", ".mpo", ".apng", ".pbm", ".pnm"),
)
_NOT_REGISTERED = (".jif",)  # an old name of JPEG files that Pillow does not know


@cache
def _optional() -> dict[str, tuple[str, ...]]:
    """Return the formats that only some installations can decode, with their suffixes."""
    found: dict[str, tuple[str, ...]] = {}
    if importlib.util.find_spec("PIL.AvifImagePlugin") and features.check("avif"):
        from PIL import AvifImagePlugin  # noqa: F401

        found["AVIF"] = (".avif",)
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found["HEIF"] = (".heic", ".heif", ".hif")
    return found


def readable_formats() -> tuple[str, ...]:
    """Return the names of Pillow's formats that are opened.

    They are `FORMATS`, and AVIF and HEIF (by the package pillow-heif) where these are installed.
    MPO, JPEGs in one file, goes with JPEG.
    """
    return (*FORMATS, *_optional())


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes, in lower case with their dot, of files that are taken for images."""
    optional = (suffix for suffixes in _optional().values() for suffix in suffixes)
    return (*SUFFIXES, *_NOT_REGISTERED, *optional)


def is_image_name(path: Path) -> bool:
    """Whether a file's suffix says that it is an image that can be read here."""
    return path.suffix.lower() in readable_suffixes()
