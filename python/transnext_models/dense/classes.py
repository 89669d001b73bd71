"""Names, colours and published numbers of classes: those of COCO, of ADE20K, and any others."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from .published import ADE20K_CLASSES, COCO_CLASSES

__all__ = ["category_ids", "class_colours", "class_names", "is_nothing"]

_GOLDEN_ANGLE = 0.61803398875  # of the circle of hues: neighbours differ, however many there are
_FIRST_HUE = 0.02
_SHADES = ((0.78, 0.98), (0.62, 0.86), (0.90, 0.80))  # saturation and value, in turn
_LEAST_LUMINANCE = 0.45
_NOTHING = ("background", "nothing", "other", "photograph", "unlabeled", "__background__")
_GREY = (128, 128, 128)


def class_names(num_classes: int) -> list[str]:
    """Return COCO's names for 80 classes, ADE20K's for 150, numbers for any other count."""
    if num_classes == COCO_CLASSES:
        return [name for _, name in _coco()]
    if num_classes == ADE20K_CLASSES:
        return [name for name, _ in _ade20k()]
    return [f"class {index}" for index in range(num_classes)]


def category_ids(names: Sequence[str]) -> list[int]:
    """Return COCO's numbers, 80 of 1…90, for COCO's names; from 1 on for any others."""
    if list(names) == class_names(COCO_CLASSES):
        return [number for number, _ in _coco()]
    return list(range(1, len(names) + 1))


def class_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a colour for each class, ``[classes, 3]`` RGB.

    ADE20K's for 150, even hues for any other count; grey for what is named as no class.
    """
    if len(names) == ADE20K_CLASSES:
        return np.array([colour for _, colour in _ade20k()], np.uint8)
    colours = [_GREY if is_nothing(name) else _colour(index) for index, name in enumerate(names)]
    return np.array(colours, np.uint8).reshape(-1, 3)


def is_nothing(name: str) -> bool:
    """Whether a class is the rest that no other class takes, such as a background."""
    return name.lower() in _NOTHING


def _colour(index: int) -> tuple[int, ...]:
    saturation, value = _SHADES[index % len(_SHADES)]
    hue = (_FIRST_HUE + index * _GOLDEN_ANGLE) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    # Blue alone is too dark to be seen on dark images.
    light = max(0.0, _LEAST_LUMINANCE - (0.3 * red + 0.59 * green + 0.11 * blue))
    return tuple(round(255 * (part + light * (1 - part))) for part in (red, green, blue))


@cache
def _coco() -> tuple[tuple[int, str], ...]:
    """Return number and name of COCO's classes, as the published models count them."""
    rows = [line.split(" ", 1) for line in _lines("coco.txt")]
    return tuple((int(number), name) for number, name in rows)


@cache
def _ade20k() -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Return name and colour of ADE20K's classes, as the published models count them."""
    rows = [line.split(" ", 3) for line in _lines("ade20k.txt")]
    return tuple((name, (int(red), int(green), int(blue))) for red, green, blue, name in rows)


def _lines(file: str) -> list[str]:
    return resources.files(__package__).joinpath(file).read_text("utf-8").splitlines()
