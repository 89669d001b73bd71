"""A decoded image as RGB, upright: whole, a part of it, or resized, without copies of all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image

from .errors import Unreadable
from .memory import STRIP_PIXELS
from .quiet import quiet

Box = tuple[int, int, int, int]  # left, top, right, bottom
Size = tuple[int, int]  # width, height

_Turn = Image.Transpose
_TRANSPOSITIONS = {  # by EXIF orientation
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_STORED_RIGHT_TO_LEFT, _STORED_BOTTOM_UP = (2, 3, 7, 8), (3, 4, 6, 7)

_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_WHITE = (255, 255, 255, 255)
_16_TO_8_BIT = 257  # 65535 / 255: 16-bit white becomes 8-bit white
_WHITE_16 = 65535
_COLUMNS_OF_TALL_IMAGES_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
_MOST_BETWEEN_PIXELS = 16 << 20  # after the first of two steps of resizing


class Picture:
    """A decoded image, seen as upright 8-bit RGB.

    Transparency is put on white, 16-bit grey is scaled to 8 bits. What is asked for is brought to
    RGB in strips, so that next to the decoded pixels only the result takes memory. The results
    are, value for value, those of Pillow on the whole image.

    Parameters
    ----------
    image : Image.Image
        The decoded image, of any mode.
    orientation : int
        Its EXIF orientation, 1 to 8.

    Raises
    ------
    Unreadable
        If its pixels are of 32 bits, for which black and white are not defined.
    """

    def __init__(self, image: Image.Image, orientation: int = 1) -> None:
        if image.mode in ("I", "F"):
            # Older Pillow reads 16-bit PNG as 32-bit integers. True 32-bit images have no white.
            extrema: Any = image.getextrema()
            if image.mode == "F" or extrema[0] < 0 or extrema[1] > _WHITE_16:
                raise Unreadable("has 32-bit pixels, whose black and white are not defined")
        self._image = image
        self._orientation = orientation if orientation in _TRANSPOSITIONS else 1

    @property
    def size(self) -> Size:
        """Width and height, upright."""
        width, height = self._image.size
        return (height, width) if self._orientation in _SIDEWAYS else (width, height)

    @property
    def width(self) -> int:
        """Its width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Its height in pixels."""
        return self.size[1]

    def close(self) -> None:
        """Let go of the decoded image."""
        del self._image

    def rgb(self) -> Image.Image:
        """Return all of it, a new image of mode RGB."""
        whole = Image.new("RGB", self.size)
        for box in self._strips():
            whole.paste(self.crop(box), box)
        return whole

    def crop(self, box: Box) -> Image.Image:
        """Return the part inside of `box`, an image of mode RGB."""
        with quiet():  # Pillow warns of large parts too
            part = _to_rgb(self._image.crop(self._stored(box)))
        transposition = _TRANSPOSITIONS.get(self._orientation)
        return part if transposition is None else part.transpose(transposition)

    def resize(
        self,
        size: Size,
        method: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        """Return ``rgb().resize(size, method, box)``.

        Pillow resizes rows and columns one after the other, with 8 bits in between, so the first
        can be resized strip by strip. Where that would leave more than 16 million pixels (65,536
        rows of 256) and the other order less, that is taken: it rounds and clips other values.
        """
        order = _order(self.size, size)
        if self._is_rgb and order == _order_of_pillow(self.size, size):
            return self._image.resize(size, method, box)
        if self.width * self.height <= STRIP_PIXELS:
            return self.rgb().resize(size, method, box)
        left, top, right, bottom = (0, 0, *self.size) if box is None else box
        if order == "rows":
            between = Image.new("RGB", (size[0], self.height))
            for strip in self._strips():
                count = strip[3] - strip[1]
                part = self.crop(strip).resize((size[0], count), method, (left, 0, right, count))
                between.paste(part, (0, strip[1]))
            return between.resize(size, method, (0, top, size[0], bottom))
        between = Image.new("RGB", (self.width, size[1]))
        for strip in self._strips(columns=True):
            count = strip[2] - strip[0]
            part = self.crop(strip).resize((count, size[1]), method, (0, top, count, bottom))
            between.paste(part, (strip[0], 0))
        return between.resize(size, method, (left, 0, right, size[1]))

    @property
    def _is_rgb(self) -> bool:
        """Whether the decoded image is the result as it is."""
        image = self._image
        return image.mode == "RGB" and self._orientation == 1 and "transparency" not in image.info

    def _strips(self, columns: bool = False) -> Iterator[Box]:
        """Yield boxes of few pixels that cover the image: whole rows, or whole columns."""
        width, height = self.size
        length, count = (height, width) if columns else (width, height)
        step = max(1, STRIP_PIXELS // length)
        for start in range(0, count, step):
            end = min(start + step, count)
            yield (start, 0, end, height) if columns else (0, start, width, end)

    def _stored(self, box: Box) -> Box:
        """Return where the pixels of an upright box lie in the decoded image."""
        left, top, right, bottom = box
        if self._orientation in _SIDEWAYS:
            left, top, right, bottom = top, left, bottom, right
        width, height = self._image.size
        if self._orientation in _STORED_RIGHT_TO_LEFT:
            left, right = width - right, width - left
        if self._orientation in _STORED_BOTTOM_UP:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom


Order = Literal["rows", "columns"]


def _order_of_pillow(before: Size, after: Size) -> Order:
    """Return what Pillow resizes first."""
    fewer_columns, fewer_rows = before[0] - after[0], before[1] - after[1]
    tall = fewer_rows > 0 and fewer_rows > 2 * fewer_columns
    return "columns" if _COLUMNS_OF_TALL_IMAGES_FIRST and tall else "rows"


def _order(before: Size, after: Size) -> Order:
    """Return what is resized first here."""
    left = {"rows": after[0] * before[1], "columns": before[0] * after[1]}
    order = _order_of_pillow(before, after)
    other: Order = "rows" if order == "columns" else "columns"
    return other if left[order] > max(_MOST_BETWEEN_PIXELS, left[other]) else order


def pixels_between(before: Size, after: Size) -> int:
    """Return the pixels between the two steps that resize (width, height) `before` to `after`."""
    rows_first = _order(before, after) == "rows"
    return after[0] * before[1] if rows_first else before[0] * after[1]


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of few pixels as RGB."""
    if image.mode.startswith("I"):
        image = _from_16_bit(np.asarray(image))
    if image.mode == "La":  # there is no direct way
        image = image.convert("LA")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(values: np.ndarray) -> Image.Image:
    """Return an 8-bit grey image of values 0 to 65535, rounded."""
    values = values.astype(np.uint32)
    return Image.fromarray(((values + _16_TO_8_BIT // 2) // _16_TO_8_BIT).astype(np.uint8))
