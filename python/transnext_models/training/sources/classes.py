"""The order of classes and of the images in them, the same for every source."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["image_key", "in_order"]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of their labels.

    Numbers in names count as numbers, as in timm's readers, so that a folder `10` comes after `2`;
    for WordNet's names (`n01440764`) it is the order of the text. Names that are equal but for
    case or zeros in front are in the order of their text.
    """
    return tuple(sorted(names, key=lambda name: (_natural(name), name)))


def image_key(name: str) -> tuple[str, str]:
    """Return the key by which images of a class are sorted: folder, then name, both as text.

    It is torchvision's order, which the published training had.
    """
    return posixpath.split(name)


def _natural(name: str) -> list[Any]:
    """Split a name into text and numbers in turn; a number is its length and its digits."""
    parts: list[Any] = re.split(r"([0-9]+)", name.lower())
    digits = [part.lstrip("0") for part in parts[1::2]]
    parts[1::2] = [(len(part), part) for part in digits]
    return parts
