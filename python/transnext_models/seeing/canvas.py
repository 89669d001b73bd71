"""Figures drawn by matplotlib, without a display, as PIL images and files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from transnext_ops.distribution import install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "as_file", "as_image", "new_figure"]

FORMATS = ("png", "svg")
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


def as_file(figure: Figure, kind: str) -> bytes:
    """Return the content of a figure's file, of one of `FORMATS`, on white.

    The same figure gives the same bytes: neither its date nor random names are in it. Text of an
    SVG stays text.
    """
    import matplotlib

    file = io.BytesIO()
    undated = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "transnext", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=_DPI, facecolor="white", metadata=undated)
    return file.getvalue()


def as_image(figure: Figure) -> Image.Image:
    """Return a figure as it would be saved, RGB on white."""
    with Image.open(io.BytesIO(as_file(figure, "png"))) as image:
        return image.convert("RGB")
