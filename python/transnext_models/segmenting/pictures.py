"""Label maps drawn over their images, with a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dense.classes import is_nothing
from ..drawing.canvas import Canvas
from ..drawing.legend import LegendEntry, with_legend
from ..drawing.text import rgb

__all__ = ["draw_classes", "overlay"]

_MOST_CLASSES = 15  # that a legend names
_SMALLEST_SHARE = 0.0005  # below, a percentage would be 0.0


def draw_classes(
    image: Image.Image,
    labels: NDArray[np.integer],
    classes: Sequence[tuple[int, str, float]],
    palette: NDArray[np.uint8],
    *,
    rows: int | None = None,
) -> Image.Image:
    """Draw a label map over its image, and below it what the colours mean.

    Where there is no class, as a background is, the image stays as it is.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB; small ones are enlarged.
    labels : ndarray
        ``[H, W]`` of the image's size.
    classes : sequence of (int, str, float)
        Index, name and share of each class, the largest first.
    palette : ndarray
        ``[classes, 3]`` uint8.
    rows : int | None
        Of the legend, for pictures of one size; None is as many as are needed.

    Raises
    ------
    ValueError
        If the sizes differ.
    """
    rest = [index for index, name, _ in classes if is_nothing(name)]
    canvas = Canvas.of(overlay(image, np.where(np.isin(labels, rest), -1, labels), palette))
    entries = [
        LegendEntry(rgb(palette[index]), name, _percent(share))
        for index, name, share in classes[:_MOST_CLASSES]
    ]
    if more := classes[_MOST_CLASSES:]:
        shares = sum(share for _, _, share in more)
        entries.append(LegendEntry(None, f"{len(more)} more", _percent(shares)))
    return with_legend(canvas.picture, entries, canvas.letters, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= _SMALLEST_SHARE else "< 0.1 %"


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
