"""The published transforms written anew, plainly: from the same draws, the same pixels.

Loops over pixels and exact fractions stand where the package has arrays and fixed point, so that
agreement says something about both.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

HueSaturation = Callable[[int, int], tuple[int, int]]
HsvChanged = Callable[[np.ndarray, HueSaturation], np.ndarray]


def fit(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    if height > width:
        tall, wide = fit(width, height, long, short)
        return wide, tall
    scale = min(long / width, short / height)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """In exact fractions, rounded once."""
    result = np.zeros((*size, 3), np.uint8)
    rows = [taps(i, image.shape[0], size[0]) for i in range(size[0])]
    columns = [taps(j, image.shape[1], size[1]) for j in range(size[1])]
    for i, (above, below, down) in enumerate(rows):
        for j, (left, right, along) in enumerate(columns):
            for c in range(3):
                a, b = int(image[above, left, c]), int(image[above, right, c])
                d, e = int(image[below, left, c]), int(image[below, right, c])
                upper, lower = a + (b - a) * along, d + (e - d) * along
                result[i, j, c] = round(upper + (lower - upper) * down)
    return result


def taps(index: int, source: int, target: int) -> tuple[int, int, Fraction]:
    position = (Fraction(2 * index + 1, 2)) * Fraction(source, target) - Fraction(1, 2)
    position = min(max(position, Fraction(0)), Fraction(source - 1))
    first = int(position)
    return first, min(first + 1, source - 1), position - first


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = values.shape
    return np.array(
        [[values[i * height // size[0], j * width // size[1]] for j in range(size[1])]
         for i in range(size[0])]
    )  # fmt: skip


def photometric(
    image: np.ndarray, values: Sequence[float], hsv_changed: HsvChanged | None = None
) -> np.ndarray:
    """Distort by given draws; in HSV by `hsv_changed`, or by the standard library's `colorsys`."""
    draws = iter(values)
    change_hsv = by_colorsys if hsv_changed is None else hsv_changed

    def scaled(pixels: np.ndarray, factor: float, offset: float) -> np.ndarray:
        return np.clip(pixels.astype(float) * factor + offset, 0, 255).astype(np.uint8)

    if next(draws):
        image = scaled(image, 1, next(draws))
    first = next(draws)
    if first and next(draws):
        image = scaled(image, next(draws), 0)
    if next(draws):
        factor = next(draws)
        image = change_hsv(image, lambda hue, saturation: (hue, min(255, int(saturation * factor))))
    if next(draws):
        turn = next(draws)
        image = change_hsv(image, lambda hue, saturation: ((hue + turn) % 180, saturation))
    if not first and next(draws):
        image = scaled(image, next(draws), 0)
    return image


def by_colorsys(image: np.ndarray, change: HueSaturation) -> np.ndarray:
    """Change hue (of 180) and saturation (of 255) of each pixel."""
    result = np.zeros_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        hue, saturation = change(round(hue * 180), round(saturation * 255))
        colour = colorsys.hsv_to_rgb(hue / 180, saturation / 255, value)
        result[place] = [int(part * 255 + 1e-9) for part in colour]
    return result


def photometric_draws(generator: np.random.Generator) -> list[float]:
    """Draw as the pipeline asks: coins, and numbers where they say so."""
    values: list[float] = [int(generator.integers(2))]
    if values[-1]:
        values.append(generator.uniform(-32, 32))
    first = int(generator.integers(2))
    values.append(first)

    def contrast() -> None:
        values.append(int(generator.integers(2)))
        if values[-1]:
            values.append(generator.uniform(0.5, 1.5))

    if first:
        contrast()
    contrast()  # saturation has the same range
    values.append(int(generator.integers(2)))
    if values[-1]:
        values.append(int(generator.integers(-18, 18)))
    if not first:
        contrast()
    return values
