"""Detected objects drawn over their image: boxes, masks, names and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..drawing.canvas import Canvas
from ..drawing.legend import LegendEntry, with_legend
from ..drawing.tags import place_tags
from ..drawing.text import Colour, draw_text, font_for, ink_on, rgb, text_size
from .objects import DetectedObject

__all__ = ["draw_objects"]

_SHARES = (0.45, 0.28)  # of a mask's colour over the image: of a small mask, of the whole image
_CROWD = 30  # objects from which on the picture is larger, and scores are left out
_HALO = (0, 0, 0)
_HALO_SHARE = 0.55


def draw_objects(
    image: Image.Image,
    objects: Sequence[DetectedObject],
    palette: NDArray[np.uint8],
    *,
    legend: bool = True,
) -> Image.Image:
    """Draw objects over their image.

    Small images are enlarged. Small objects lie over large ones, and names beside what they would
    hide. Where a crowd leaves no room for all of them, a legend below has the classes.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    objects : sequence of DetectedObject
        The surest first.
    palette : ndarray
        ``[classes, 3]`` uint8.
    legend : bool
        Whether there may be one; without, all pictures of one size stay of one size.
    """
    canvas = Canvas.of(image, crowded=legend and len(objects) > _CROWD)
    colours = [rgb(palette[item.index]) for item in objects]
    by_area = sorted(range(len(objects)), key=lambda index: -_area(objects[index].box))
    for index in by_area:
        _draw_mask(canvas, objects[index], colours[index])
    for index in by_area:
        _draw_box(canvas, objects[index], colours[index])
    unnamed = _draw_tags(canvas, objects, colours)
    if not (unnamed and legend):
        return canvas.picture
    counts = Counter((item.index, item.label) for item in objects)
    entries = [
        LegendEntry(rgb(palette[index]), label, f"{count}")
        for (index, label), count in counts.most_common()
    ]
    return with_legend(canvas.picture, entries, canvas.letters)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _draw_mask(canvas: Canvas, item: DetectedObject, colour: Colour) -> None:
    if item.mask is None or not item.mask.area:
        return
    height, width = item.mask.size
    line = canvas.line
    # The mask may reach a pixel beyond its box; outline and smoothing take some more.
    edge = 2 + line
    left, top = max(0, int(item.box[0]) - edge), max(0, int(item.box[1]) - edge)
    right, bottom = min(width, int(item.box[2]) + edge), min(height, int(item.box[3]) + edge)
    if right <= left or bottom <= top:
        return
    part = item.mask.part((top, bottom), (left, right))
    shape = Image.fromarray(part * np.uint8(255))
    if canvas.factor > 1:
        sides = (shape.width * canvas.factor, shape.height * canvas.factor)
        shape = shape.resize(sides, Image.Resampling.BICUBIC)
        shape = shape.filter(ImageFilter.GaussianBlur(canvas.factor / 3))
    x, y = (round(side) for side in canvas.box((left, top, right, bottom))[:2])
    part_of_image = item.mask.area / (height * width)
    share = _SHARES[0] + (_SHARES[1] - _SHARES[0]) * part_of_image**0.5
    fill = shape.point([round(share * value) for value in range(256)])
    canvas.picture.paste(colour, (x, y), fill)
    canvas.picture.paste(colour, (x, y), _outline(shape, (line + 1) // 2))


def _outline(shape: Image.Image, width: int) -> Image.Image:
    """Return the inner border of a mask, 0…255: what leaves it by a step to one of four sides."""
    values = np.asarray(shape)
    rows, columns = values.shape
    padded = np.pad(values, width, "edge")
    inner = values
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        first, second = down * width, right * width
        inner = np.minimum(inner, padded[first : first + rows, second : second + columns])
    return Image.fromarray(values - inner)


def _draw_box(canvas: Canvas, item: DetectedObject, colour: Colour) -> None:
    """Draw a frame around a box, with a dark edge that stands out on bright ground."""
    left, top, right, bottom = (round(side) for side in canvas.box(item.box))
    line = canvas.line if item.mask is None else max(1, canvas.line // 2)
    # Thinner around what the frame would hide.
    line = max(1, min(line, min(right - left, bottom - top) // 6))
    outside = (left - line, top - line, right + line - 1, bottom + line - 1)
    wide = (outside[0] - 1, outside[1] - 1, outside[2] + 1, outside[3] + 1)
    _shade_frame(canvas.picture, wide, line + 2)
    ImageDraw.Draw(canvas.picture).rectangle(outside, outline=colour, width=line)


def _shade_frame(picture: Image.Image, box: tuple[int, int, int, int], line: int) -> None:
    """Darken a frame of a box, in memory of its sides."""
    left, top, right, bottom = box
    for strip in (
        (left, top, right + 1, top + line),
        (left, bottom + 1 - line, right + 1, bottom + 1),
        (left, top + line, left + line, bottom + 1 - line),
        (right + 1 - line, top + line, right + 1, bottom + 1 - line),
    ):
        inside = (
            max(strip[0], 0), max(strip[1], 0),
            min(strip[2], picture.width), min(strip[3], picture.height),
        )  # fmt: skip
        if inside[2] > inside[0] and inside[3] > inside[1]:
            part = picture.crop(inside)
            dark = Image.blend(part, Image.new("RGB", part.size, _HALO), _HALO_SHARE)
            picture.paste(dark, inside[:2])


def _draw_tags(canvas: Canvas, objects: Sequence[DetectedObject], colours: Sequence[Colour]) -> int:
    """Draw names and scores; return how many found no place."""
    letters, small = canvas.letters, max(11, round(0.75 * canvas.letters))
    pad = max(3, letters // 4)
    forms = []
    for item in objects:
        texts = [(item.label, small)]
        if len(objects) <= _CROWD:
            texts[:0] = [(f"{item.label} {item.score:.2f}", letters), (item.label, letters)]
        forms.append(texts)
    sizes = [[_tag_size(text, height, pad) for text, height in texts] for texts in forms]
    boxes = [canvas.box(item.box) for item in objects]
    draw = ImageDraw.Draw(canvas.picture)
    unnamed = 0
    for index, place in enumerate(place_tags(boxes, sizes, canvas.picture.size)):
        if place is None:
            unnamed += 1
            continue
        form, (left, top) = place
        text, height = forms[index][form]
        width, high = sizes[index][form]
        ground = (left, top, left + width - 1, top + high - 1)
        draw.rectangle(ground, colours[index])
        ink = ink_on(colours[index])
        draw_text(draw, (left + pad, top + high // 2), text, font_for(text, height), ink)
    return unnamed


def _tag_size(text: str, letters: int, pad: int) -> tuple[int, int]:
    width, height = text_size(text, font_for(text, letters))
    return width + 2 * pad, height + 2 * (pad // 2) + 1
