"""Decode images, wherever they come from: one error for each that cannot be."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from . import memory
from .arrays import from_array, from_tensor
from .claims import Claim, ClaimError, check_exif, read_claim
from .errors import ImageError, Unreadable
from .forks import Lock
from .formats import readable_formats
from .memory import DECODING, MemoryBudget
from .picture import Picture
from .quiet import quiet
from .sources import check_source, name_of, open_source

Size = tuple[int, int]  # width, height
Working = Callable[[Size], int]  # bytes that work on an image of this size takes

_ORIENTATION = 0x0112
_TEXT_EXIF = "Raw profile type exif"  # of ImageMagick, in PNG: hexadecimal, after two lines

# Images of the caller are decoded one at a time: one may be given twice, and Pillow keeps a state.
_loading = Lock()
_NEVER = threading.Event()


def read_image(source: Any, *, memory_bytes: int | None = None) -> Image.Image:
    """Decode an image to 8-bit RGB, upright.

    The EXIF orientation is applied; transparency is put on white; 16-bit grey is scaled to 8 bits;
    of an animation the first frame is taken.

    Parameters
    ----------
    source : Any
        A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or an AVIF or HEIF one where that can be
        decoded: its path, ``-`` for standard input, a pipe, its bytes, or an object open for
        reading. Or a PIL image, a NumPy array ``[H, W]`` or ``[H, W, C]``, a tensor ``[C, H, W]``
        (see `arrays`).
    memory_bytes : int | None
        What decoding it may take. None is a share of `DECODING_BYTES`, with all that is decoded
        at the same time.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB.

    Raises
    ------
    ImageError
        If the file is missing, empty, no image, damaged, or too large.
    TypeError
        If `source` is of none of these types.
    """
    check_source("source", source)
    budget = DECODING if memory_bytes is None else MemoryBudget(memory_bytes)
    name = name_of(source, 0)
    with open_picture(source, name, budget=budget, working=_bytes_of_copy) as picture:
        return picture.rgb()


def _bytes_of_copy(size: Size) -> int:
    return memory.bytes_of(size, memory.pixel_bytes("RGB"))


@contextmanager
def open_picture(
    source: Any,
    name: str | os.PathLike[str],
    *,
    working: Working,
    budget: MemoryBudget = DECODING,
    stop: threading.Event = _NEVER,
) -> Iterator[Picture]:
    """Decode an image, and hold the memory that it and work on it take.

    Parameters
    ----------
    source, name : Any, str | os.PathLike[str]
        As in `read_image`, and what errors call it.
    working : Working
        What the work on it takes beside it.
    budget : MemoryBudget
        Where its memory is held; it waits until there is enough.
    stop : threading.Event
        Ends waiting for a pipe.

    Raises
    ------
    ImageError
        As `read_image`; also where the work fails.
    """
    with _named_errors(name), ExitStack() as held:
        if isinstance(source, Image.Image):
            picture = _from_image(source, held, budget, working)
        elif isinstance(source, np.ndarray):
            picture = Picture(from_array(source))
        elif isinstance(source, torch.Tensor):
            picture = Picture(from_tensor(source))
        else:
            file = held.enter_context(open_source(source, stop))
            picture = _from_file(file, held, budget, working)
        held.callback(picture.close)  # its memory goes before others may take as much
        yield picture


def _from_file(file: BinaryIO, held: ExitStack, budget: MemoryBudget, working: Working) -> Picture:
    length = file.seek(0, os.SEEK_END)
    if length == 0:
        raise Unreadable("an empty file")
    if _is_kept_whole(file) and length > budget.total:
        raise Unreadable(f"a file of {length >> 20:,} MiB")
    claim = read_claim(file, length)
    extra, reserved = claim.extra_bytes, None
    if claim.size is not None and claim.bytes_per_pixel is not None:
        memory.check_size(claim.size)
        pixels = memory.bytes_of(claim.size, claim.bytes_per_pixel)
        reserved = pixels + extra + _work(claim.size, working)
        held.enter_context(budget.reserve(reserved))
    elif _is_kept_whole(file):
        extra += length
    file.seek(0)
    with quiet():
        image = Image.open(file, formats=readable_formats())
    held.callback(image.close)
    return _decoded(image, extra, reserved, held, budget, working)


def _is_kept_whole(file: BinaryIO) -> bool:
    """Whether a file is WebP, AVIF or HEIF: their decoders keep all of it in memory."""
    file.seek(0)
    start = file.read(12)
    return start.startswith(b"RIFF") or start[4:8] == b"ftyp"


def _from_image(
    image: Image.Image, held: ExitStack, budget: MemoryBudget, working: Working
) -> Picture:
    if not isinstance(image, ImageFile.ImageFile):  # no file to be decoded
        return Picture(image, _orientation(image))
    with _loading:
        extra = _claimed_by(image).extra_bytes
        return _decoded(image, extra, None, held, budget, working)


def _claimed_by(image: ImageFile.ImageFile) -> Claim:
    """Return what the file claims that an image, not decoded yet, was opened from."""
    file: Any = image.fp
    if file is None or getattr(file, "closed", False):
        return Claim()
    offset = file.tell()
    try:
        file.seek(0, os.SEEK_END)
        return read_claim(file, file.tell())
    finally:
        file.seek(offset)


def _decoded(
    image: Image.Image,
    extra: int,
    reserved: int | None,
    held: ExitStack,
    budget: MemoryBudget,
    working: Working,
) -> Picture:
    """Decode an image that was opened, with `extra` bytes beside it.

    `reserved` is the memory already held for it, where that had to be before it was opened.
    """
    memory.check_size(image.size)
    needed = memory.decoding_bytes(image) + extra + _work(image.size, working)
    if reserved is None:
        held.enter_context(budget.reserve(needed))
    elif needed > reserved:
        raise ClaimError("its header says two sizes")
    with quiet():
        image.load()
    return Picture(image, _orientation(image))


def _work(size: Size, working: Working) -> int:
    """Return the memory for work on an image that may yet be rotated by 90 degrees."""
    return memory.strip_bytes(size) + max(working(size), working(size[::-1]))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 without one.

    EXIF data is often damaged where the image is not: then there is no orientation to apply.
    """
    with contextlib.suppress(Exception), quiet():
        if _TEXT_EXIF in image.info:
            check_exif(bytes.fromhex("".join(image.info[_TEXT_EXIF].split("\n")[3:])))
        check_exif(image.info.get("exif") or b"")
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if isinstance(orientation, int) else 1
    return 1


@contextmanager
def _named_errors(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever happens to an image into one kind of error that names it."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Say why an image could not be decoded."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, ClaimError):
        return f"cannot be trusted: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format (JPEG, PNG, WebP, …)"
    if isinstance(error, Image.DecompressionBombError):
        allowed = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # other code may have set it lower
        return memory.too_many_pixels(min(allowed, memory.MAX_PIXELS))
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    # Decoders fail on damaged files in every way there is; each is this one file's problem.
    return f"cannot be decoded ({error or type(error).__name__})"
