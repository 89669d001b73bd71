"""Checks that the readers of all formats share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..dense.run_lengths import Size
from ..images import ImageError
from .archived import names_in, open_file
from .errors import AnnotationError
from .records import AnnotatedImage
from .report import Report

__all__ = ["finite", "note_objects", "read_text", "without_missing"]

_SHOWN = 5


def read_text(file: Path, most_bytes: int) -> str:
    """Return the text of a file, UTF-8, of at most so many bytes; AnnotationError otherwise."""
    try:
        with open_file(str(file)) as opened:
            content = opened.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise AnnotationError(file, "", f"has more than {most_bytes:,} bytes")
        return content.decode("utf-8-sig")
    except ImageError as error:
        raise AnnotationError(file, "", f"cannot be read ({error.reason})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(file, f"byte {error.start}", "is no UTF-8 text") from error


def finite(values: Iterable[Any]) -> bool:
    """Whether all are numbers, and finite."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        for value in values
    )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def note_objects(
    report: Report, boxes: Sequence[Sequence[float]], size: Size, places: Sequence[str]
) -> None:
    """Count boxes that reach beyond their image, lie outside it, or are under a pixel."""
    height, width = size
    for (left, top, right, bottom), place in zip(boxes, places, strict=True):
        if right - left < 1 or bottom - top < 1:
            report.note("boxes have a side under one pixel: not trained on", place)
        elif right <= 0 or bottom <= 0 or left >= width or top >= height:
            report.note("boxes lie outside their image: not trained on", place)
        elif left < 0 or top < 0 or right > width or bottom > height:
            report.note("boxes reach beyond their image: clipped in training", place)


def without_missing(
    images: Sequence[AnnotatedImage], source: str | os.PathLike[str], report: Report, allow: bool
) -> list[AnnotatedImage]:
    """Return the images whose files are there.

    Raises
    ------
    AnnotationError
        Files are missing, and `allow` does not say that they may; names the first.
    """
    folders: dict[str, frozenset[str]] = {}
    present: list[AnnotatedImage] = []
    missing: list[AnnotatedImage] = []
    for image in images:
        folder, name = os.path.split(image.path)
        if folder not in folders:
            folders[folder] = names_in(folder)
        (present if name in folders[folder] else missing).append(image)
    if missing and not allow:
        names = ", ".join(image.path for image in missing[:_SHOWN])
        more = ", …" if len(missing) > _SHOWN else ""
        raise AnnotationError(
            source, "", f"{len(missing)} of {len(images)} images are missing: {names}{more}"
        )
    for image in missing:
        report.note("images are missing: left out", image.path)
    return present
