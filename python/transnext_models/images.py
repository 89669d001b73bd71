"""Find image files and decode them to RGB, whatever they are: one error for each that cannot be."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# The plugins are imported by name: only these formats are opened, so that no image file can make
# Pillow start another program (EPS) or use a decoder nobody asked for.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
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
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_WHITE = (255, 255, 255, 255)
_WILDCARD = re.compile(r"[*?\[]")
_16_TO_8_BIT = 257  # 65535 / 255: 16-bit white becomes 8-bit white


class ImageError(ValueError):
    """One file is no image that can be read.

    Attributes
    ----------
    path, reason
        The file, and why.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What `find_images` found: files in order without repeats, and the names that gave none."""

    paths: list[Path]
    problems: list[ImageError]


def find_images(names: Iterable[str | os.PathLike[str]]) -> FoundImages:
    """Return the image files that `names` stand for.

    Parameters
    ----------
    names
        Files, taken as they are whatever their suffix; folders, searched with all folders below for
        files with an image's suffix (hidden ones left out); patterns with ``*``, ``?``, ``[]`` and
        ``**``. The files of one folder or pattern are sorted by name.

    Returns
    -------
    FoundImages
    """
    paths: dict[Path, None] = {}
    problems: list[ImageError] = []
    for given in names:
        name = os.fspath(given)
        path = Path(name).expanduser()
        found: list[Path]
        if not name:  # an unset variable in a shell, not the working folder
            found, missing = [], "an empty name"
        elif path.is_dir():
            found, missing = _in_folder(path), "a folder without images " + _looked_for()
        elif path.exists():
            found, missing = [path], ""
        elif _WILDCARD.search(name):
            found, missing = _matching(str(path)), "no image matches this pattern"
        else:
            found, missing = [], "no such file or folder"
        if not found:
            problems.append(ImageError(name, missing))
        paths.update(dict.fromkeys(found))
    return FoundImages(list(paths), problems)


def _looked_for() -> str:
    return f"({', '.join(suffix[1:] for suffix in SUFFIXES)})"


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _in_folder(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(filter(_is_image_name, found))


def _matching(pattern: str) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]
    files = [match for match in matches if match.is_file()]
    # A pattern that says a suffix means it; others, such as "photos/*", mean the images.
    if not Path(pattern).suffix or _WILDCARD.search(Path(pattern).suffix):
        files = [match for match in files if _is_image_name(match)]
        files += [path for match in matches if match.is_dir() for path in _in_folder(match)]
    return sorted(dict.fromkeys(files))


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode an image file to 8-bit RGB, upright.

    The EXIF orientation is applied; transparency is put on white; 16-bit grey is scaled to 8 bits;
    of an animation the first frame is taken.

    Parameters
    ----------
    path
        A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB.

    Raises
    ------
    ImageError
        If the file is missing, empty, no image, damaged, or implausibly large.
    """
    try:
        if os.path.isdir(path):
            raise ImageError(path, "a folder, not an image")
        if os.path.getsize(path) == 0:
            raise ImageError(path, "an empty file")
        with warnings.catch_warnings():
            # Pillow warns of large images, of odd EXIF data and of palettes; it refuses bombs.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return _to_rgb(path, _upright(image))
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image of a known format (JPEG, PNG, WebP, …)") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"more than {_most_pixels()} million pixels") from error
    except MemoryError as error:
        raise ImageError(path, "too large for the memory of this machine") from error
    # Decoders fail on damaged files in every way there is; each is this one file's problem.
    except Exception as error:
        raise ImageError(path, f"cannot be decoded ({error or type(error).__name__})") from error


def _most_pixels() -> int:
    return 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000


def _upright(image: Image.Image) -> Image.Image:
    # EXIF data is often damaged where the image is not: then there is no orientation to apply.
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(path: str | os.PathLike[str], image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _from_16_bit(np.asarray(image))
    elif image.mode in ("I", "F"):
        # Older Pillow reads 16-bit PNG as 32-bit integers. True 32-bit images have no known white.
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ImageError(path, "has 32-bit pixels, whose black and white are not defined")
        image = _from_16_bit(values)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(values: np.ndarray) -> Image.Image:
    """Return an 8-bit grey image of values 0 to 65535, rounded."""
    values = values.astype(np.uint32)
    return Image.fromarray(((values + _16_TO_8_BIT // 2) // _16_TO_8_BIT).astype(np.uint8))
