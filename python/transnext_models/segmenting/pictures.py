"""Names and colours of classes, and label maps drawn over their images."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ADE20K_CLASSES", "class_names", "colours", "overlay"]

ADE20K_CLASSES = 150
_GOLDEN_ANGLE = 0.61803398875  # of the circle of hues: neighbours differ, however many there are


@lru_cache
def _ade20k() -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return names and colours of ADE20K's 150 classes, as the published models count them."""
    text = resources.files(__package__).joinpath("ade20k.txt").read_text("utf-8")
    rows = [line.split(" ", 3) for line in text.splitlines()]
    return (
        tuple(name for *_, name in rows),
        tuple((int(red), int(green), int(blue)) for red, green, blue, _ in rows),
    )


def class_names(num_classes: int) -> list[str]:
    """Return ADE20K's names for 150 classes, numbers for any other count."""
    if num_classes == ADE20K_CLASSES:
        return list(_ade20k()[0])
    return [f"class {index}" for index in range(num_classes)]


def colours(num_classes: int) -> NDArray[np.uint8]:
    """Return a colour for each class, ``[classes, 3]`` RGB: ADE20K's for 150, else even hues."""
    if num_classes == ADE20K_CLASSES:
        return np.array(_ade20k()[1], np.uint8)
    rows = [
        colorsys.hsv_to_rgb(index * _GOLDEN_ANGLE % 1.0, 0.7, 0.95) for index in range(num_classes)
    ]
    return (np.array(rows).reshape(-1, 3) * 255).round().astype(np.uint8)


def overlay(
    image: Image.Image, labels: NDArray[np.integer], palette: NDArray[np.uint8], share: float = 0.5
) -> Image.Image:
    """Draw a label map over its image.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    labels : ndarray
        ``[H, W]`` of the image's size; what has no row in the palette is left as it is.
    palette : ndarray
        ``[classes, 3]`` uint8.
    share : float
        Of the colours, 0…1; the borders between classes are drawn in full.

    Raises
    ------
    ValueError
        If the sizes differ, or the share is not in 0…1.
    """
    if labels.shape != (image.height, image.width):
        raise ValueError(
            f"labels: got {labels.shape}, needs the image's {(image.height, image.width)}"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"share: got {share}, needs 0…1")
    pixels = np.asarray(image.convert("RGB"), np.float32)
    known = (labels >= 0) & (labels < len(palette))
    wanted = palette[np.where(known, labels, 0)]
    weight = np.full(labels.shape, share, np.float32)
    weight[_borders(labels)] = 1.0
    weight = np.where(known, weight, 0)[..., None]
    mixed = pixels + weight * (wanted - pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _borders(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the pixels whose right or lower neighbour has another label."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders
