"""Figures drawn by matplotlib, without a display, as PIL images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from transnext_ops.distribution import install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_image", "new_figure"]

_DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises
    ------
    RuntimeError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError(
            f"figures need the package matplotlib: {install_hint('evaluate')}"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def as_image(figure: Figure) -> Image.Image:
    """Return a figure as it would be saved, RGB on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, facecolor="white")
    with Image.open(file) as image:
        return image.convert("RGB")
