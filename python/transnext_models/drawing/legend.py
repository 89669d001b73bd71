"""A legend below a picture: colours, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .text import Colour, draw_text, font_for, text_size

__all__ = ["LegendEntry", "with_legend"]

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (112, 112, 112)


class LegendEntry(NamedTuple):
    """A colour (None has no patch), its name, and what else is to be said of it."""

    colour: Colour | None
    name: str
    remark: str = ""


def with_legend(
    picture: Image.Image, entries: Sequence[LegendEntry], letters: int, rows: int | None = None
) -> Image.Image:
    """Return a picture with a legend below it, in as many columns as fit.

    Parameters
    ----------
    picture : PIL.Image.Image
        RGB.
    entries : sequence of LegendEntry
        Read along rows.
    letters : int
        Their height in pixels.
    rows : int | None
        So many, whatever is in them, for pictures of one size; None is as many as are needed.
    """
    if not entries and rows is None:
        return picture
    gap, patch = max(2, letters // 2), letters
    line = round(1.7 * letters)
    margin = letters
    widths = []
    for entry in entries:
        name = text_size(entry.name, font_for(entry.name, letters))[0]
        remark = text_size(entry.remark, font_for(entry.remark, letters))[0]
        widths.append(patch + gap + name + (gap + remark if entry.remark else 0))
    column = max(widths, default=0) + 2 * gap
    columns = max(1, (picture.width - 2 * margin + 2 * gap) // max(column, 1))
    needed = -(-len(entries) // columns)
    if rows is not None:
        entries, needed = entries[: rows * columns], rows
    width = max(picture.width, min(column, max(widths, default=0)) + 2 * margin)
    whole = Image.new("RGB", (width, picture.height + needed * line + margin), _PAPER)
    whole.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(whole)
    for index, entry in enumerate(entries):
        row, place = divmod(index, columns)
        x = margin + place * column
        y = picture.height + margin // 2 + row * line
        font = font_for(entry.name, letters)
        size = text_size(entry.name, font)
        centre = y + line // 2
        if entry.colour is not None:
            corner = (x, centre - patch // 2)
            end = (corner[0] + patch - 1, corner[1] + patch - 1)
            draw.rectangle((corner, end), entry.colour)
        x += patch + gap
        draw_text(draw, (x, centre), entry.name, font, _INK)
        if entry.remark:
            font = font_for(entry.remark, letters)
            at = (x + size[0] + gap, centre)
            draw_text(draw, at, entry.remark, font, _FAINT)
    return whole
