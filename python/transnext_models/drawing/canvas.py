"""An image made large enough to draw on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

__all__ = ["Canvas"]

_LONG_SIDE, _CROWDED_SIDE = 480, 1000  # smaller images are enlarged by whole numbers
_LETTERS = 0.018  # height of letters per mean side
_SMALLEST_LETTERS = 13
_ROOM = (16, 5)  # width and height at least, in heights of letters
_MARGIN = (32, 32, 32)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture that is drawn on, and where the image is in it.

    Attributes
    ----------
    picture : PIL.Image.Image
        RGB: the image, enlarged if it is small, with dark margins if it is too narrow for letters.
    factor : int
        Pixels of the picture for one of the image.
    left, top : int
        Where the image begins.
    letters : int
        Height of letters in pixels.
    line : int
        Thickness of lines.
    """

    picture: Image.Image
    factor: int
    left: int
    top: int
    letters: int
    line: int

    @classmethod
    def of(cls, image: Image.Image, *, crowded: bool = False) -> Canvas:
        """Return a canvas for an image, which stays as it is; a larger one for a crowd."""
        factor = max(1, -(-(_CROWDED_SIDE if crowded else _LONG_SIDE) // max(image.size)))
        width, height = (factor * side for side in image.size)
        letters = max(_SMALLEST_LETTERS, round(_LETTERS * math.sqrt(width * height)))
        room = [max(side, _ROOM[axis] * letters) for axis, side in enumerate((width, height))]
        left, top = (room[0] - width) // 2, (room[1] - height) // 2
        picture = image.convert("RGB")
        if factor > 1:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        if (width, height) != tuple(room):
            whole = Image.new("RGB", (room[0], room[1]), _MARGIN)
            whole.paste(picture, (left, top))
            picture = whole
        elif picture is image:
            picture = image.copy()
        return cls(picture, factor, left, top, letters, max(2, round(letters / 7)))

    def box(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in the picture of a box in the image."""
        left, top, right, bottom = (self.factor * side for side in box)
        return left + self.left, top + self.top, right + self.left, bottom + self.top
