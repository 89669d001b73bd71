"""Draw what one query of foveal attention sees: docs/pictures/foveal_attention.png.

Run: ``pip install ".[docs]"`` and ``python docs/pictures/foveal_attention.py [OUTPUT]``

Three panels over one photograph: the query's window of single tokens, the pooled cells over the
whole image, and what the one softmax over both gets to see. The grids are those of TransNeXt's
second stage at 224×224.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import skimage.transform

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

SIDE = 448  # pixels of the picture
TOKENS, POOLED, WINDOW = 28, 7, 3  # per side
QUERY = (10, 9)  # row and column of its token: the cat's eye
SHARP, COARSE = "#ff3b30", "#ffd60a"


def photograph() -> np.ndarray:
    """Return the square photograph ``[SIDE, SIDE, 3]`` in 0..1."""
    cat = skimage.data.chelsea()
    height, width = cat.shape[:2]
    left = (width - height) // 2
    return skimage.transform.resize(cat[:, left : left + height], (SIDE, SIDE), anti_aliasing=True)


def pooled(image: np.ndarray, cells: int) -> np.ndarray:
    """Return the image averaged over ``cells`` × ``cells`` cells, at its own size."""
    step = SIDE // cells
    means = image.reshape(cells, step, cells, step, 3).mean(axis=(1, 3))
    return means.repeat(step, axis=0).repeat(step, axis=1)


def window() -> tuple[slice, slice]:
    """Return the pixels of the query's window."""
    step, radius = SIDE // TOKENS, WINDOW // 2
    return tuple(slice((at - radius) * step, (at + radius + 1) * step) for at in QUERY)  # type: ignore[return-value]


def grid(axes: Axes, cells: int, colour: str, width: float, alpha: float) -> None:
    """Draw the lines of a grid of cells."""
    for line in np.linspace(0, SIDE, cells + 1) - 0.5:
        axes.axhline(line, color=colour, linewidth=width, alpha=alpha)
        axes.axvline(line, color=colour, linewidth=width, alpha=alpha)


def mark_window(axes: Axes, fill: bool) -> None:
    """Outline the window's tokens, and fill the query."""
    step, radius = SIDE // TOKENS, WINDOW // 2
    for row in range(QUERY[0] - radius, QUERY[0] + radius + 1):
        for column in range(QUERY[1] - radius, QUERY[1] + radius + 1):
            corner = (column * step - 0.5, row * step - 0.5)
            axes.add_patch(
                Rectangle(corner, step, step, fill=False, edgecolor=SHARP, linewidth=1.2)
            )
    if fill:
        corner = (QUERY[1] * step - 0.5, QUERY[0] * step - 0.5)
        axes.add_patch(Rectangle(corner, step, step, facecolor=SHARP, edgecolor=SHARP))


def draw(path: Path) -> None:
    """Write the picture to ``path``."""
    image, coarse = photograph(), pooled(photograph(), POOLED)
    seen = coarse.copy()
    rows, columns = window()
    seen[rows, columns] = image[rows, columns]
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.4), dpi=110)
    titles = (
        f"sharp: the {WINDOW}×{WINDOW} tokens around the query",
        f"coarse: {POOLED}×{POOLED} pooled cells of the whole image",
        f"what one softmax over {WINDOW**2} + {POOLED**2} keys sees",
    )
    for axes, shown, title in zip(panels, (image, coarse, seen), titles, strict=True):
        axes.imshow(shown)
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    grid(panels[0], TOKENS, "white", 0.4, 0.55)
    mark_window(panels[0], fill=True)
    grid(panels[1], POOLED, COARSE, 1.2, 0.9)
    grid(panels[2], POOLED, COARSE, 0.6, 0.6)
    mark_window(panels[2], fill=False)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_suffix(".png"))
