"""Letters: fonts of any size, and their colour on a ground."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

__all__ = ["Colour", "Font", "draw_text", "font_for", "ink_on", "rgb", "text_size"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

# Of Debian, macOS and Windows: what Pillow's own font, of Latin letters alone, lacks.
_WIDE_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
_LATIN = 0x180
_DARK, _LIGHT = (16, 16, 16), (255, 255, 255)
_MIDDLE = 0.36  # of the luminance, where dark and light letters can be read as well


@lru_cache(maxsize=64)
def _latin_font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _wide_font(size: int) -> Font:
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return _latin_font(size)


def font_for(text: str, size: int) -> Font:
    """Return a font of a size in pixels that has the letters of a text, where there is one."""
    return _latin_font(size) if all(ord(letter) < _LATIN for letter in text) else _wide_font(size)


def text_size(text: str, font: Font) -> tuple[int, int]:
    """Return how wide a line of text is, and how high any line is, in pixels."""
    _, top, _, bottom = font.getbbox("Åg")
    return round(font.getlength(text)), round(bottom - top)


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: Font, ink: Colour
) -> None:
    """Draw a line of text from the left, half of its height above ``at`` and half below."""
    draw.text(at, text, ink, font, anchor="lm")


def rgb(row: NDArray[np.uint8]) -> Colour:
    """Return a row of a palette as Pillow takes colours."""
    red, green, blue = row.tolist()
    return red, green, blue


def ink_on(ground: Sequence[int]) -> Colour:
    """Return dark or light, whichever can be read better on a colour."""
    red, green, blue = ((part / 255) ** 2.2 for part in ground)
    return _DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > _MIDDLE else _LIGHT
