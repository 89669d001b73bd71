"""What a weights file's metadata say about its images and classes, believed within limits.

Metadata are text that anyone may have written. What is no answer is left out, with a
`WeightsWarning` that names the file, so that nobody takes the preset for the file's own.
"""

from __future__ import annotations

import json
import re
import warnings

from ..variants import CROP_MODES, MIN_SIZE
from .errors import WeightsWarning, about, escaped
from .limits import LONGEST_CLASS_NAME, MOST_IMAGE_SIDE
from .read import WeightsFile

_LONGEST_SHOWN = 40
_SCALE = re.compile(r"[0-9]{1,9},[0-9]{1,9}", re.ASCII)
_SHARE = re.compile(r"[01]\.?[0-9]{0,17}", re.ASCII)


def image_side(weights: WeightsFile, key: str) -> int | None:
    """Return the side of square images that the metadata give under `key`; None without."""
    text = weights.metadata.get(key)
    if text is None:
        return None
    digits = text if text.isascii() and text.isdecimal() and len(text) < 10 else "0"
    if MIN_SIZE <= int(digits) <= MOST_IMAGE_SIDE:
        return int(digits)
    needs = f"a number from {MIN_SIZE} to {MOST_IMAGE_SIDE}"
    _ignored(weights, key, f"{_shown(text)}, not {needs}")
    return None


def image_scale(weights: WeightsFile) -> tuple[int, int] | None:
    """Return the sides that a detector's or segmentor's images fit into, ``long,short``; or None.

    What `transnext train detect --size` trained at is what its weights are used at.
    """
    text = weights.metadata.get("scale")
    if text is None:
        return None
    if _SCALE.fullmatch(text):
        long, short = map(int, text.split(","))
        if MIN_SIZE <= short <= long <= MOST_IMAGE_SIDE:
            return long, short
    needs = f"long and short side, {MIN_SIZE} to {MOST_IMAGE_SIDE}"
    _ignored(weights, "scale", f"{_shown(text)}, not {needs}")
    return None


def image_crop(weights: WeightsFile) -> tuple[str, float] | None:
    """Return how validation brought images to a square, `crop_mode` and `crop_pct`; None without.

    They are those of :class:`transnext_models.variants.Checkpoint`.
    """
    mode, share = (weights.metadata.get(key) for key in ("crop_mode", "crop_pct"))
    if mode is None and share is None:
        return None
    if mode not in CROP_MODES:
        _ignored(weights, "crop_mode", f"{_shown(mode)}, not one of {', '.join(CROP_MODES)}")
    elif share is None or not _SHARE.fullmatch(share) or not 0 < float(share) <= 1:
        _ignored(weights, "crop_pct", f"{_shown(share)}, not more than 0 and at most 1")
    else:
        return mode, float(share)
    return None


def class_names(weights: WeightsFile, count: int | None = None) -> list[str] | None:
    """Return the names of the classes, a JSON list in the metadata; None without.

    Parameters
    ----------
    weights : WeightsFile
        The file.
    count : int | None
        How many classes it has; None is those of a classifier.
    """
    names = believed_class_names(weights, count)
    if isinstance(names, str):
        _ignored(weights, "class_names", names)
        return None
    return names


def believed_class_names(weights: WeightsFile, count: int | None = None) -> list[str] | str | None:
    """Return the names of the classes, or what is wrong with them; None without."""
    text = weights.metadata.get("class_names")
    if text is None:
        return None
    if count is None and weights.architecture:
        count = weights.architecture.num_classes
    try:
        names = json.loads(text, parse_int=_no_name, parse_float=_no_name)
    # A list nested ten thousand times exhausts the parser's stack.
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"{_shown(text)}, not a JSON list of names"
    if len(names) != count:
        return f"{len(names)} names, and it has {count} classes"
    if any(len(name) > LONGEST_CLASS_NAME for name in names):
        return f"one of more than {LONGEST_CLASS_NAME} characters"
    return names


def class_colours(weights: WeightsFile, count: int) -> list[list[int]] | None:
    """Return the colours of `count` classes, JSON rows [red, green, blue]; None without."""
    text = weights.metadata.get("class_colours")
    if text is None:
        return None
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(map(_is_colour, rows)):
        needs = "not a JSON list of [red, green, blue] from 0 to 255"
        _ignored(weights, "class_colours", f"{_shown(text)}, {needs}")
    elif len(rows) != count:
        _ignored(weights, "class_colours", f"{len(rows)} colours, and it has {count} classes")
    else:
        return rows
    return None


def _is_colour(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in row)
    )


def _no_name(text: str) -> str:
    raise ValueError(f"a number, {text[:_LONGEST_SHOWN]}")


def _ignored(weights: WeightsFile, key: str, why: str) -> None:
    text = about(weights.path, f"its metadata's {key} is left out: it is {why}")
    warnings.warn(text, WeightsWarning, stacklevel=3)


def _shown(text: str | None) -> str:
    return "missing" if text is None else f"'{escaped(text, _LONGEST_SHOWN)}'"
