"""The paper's figure of accuracy over image sizes, drawn from rows of results.

Source of the published curves: see `published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transnext_ops.distribution import install_hint

from ..training.durable import written_durably
from .image_sets import IMAGENET
from .models import MODES
from .published import FIGURE_SIZES, PEER_CURVES, TINY_CURVES
from .results import Results
from .rows import Row

__all__ = ["draw_sizes", "measured_curves"]

_SHORT_HASH = 8
_LINES = dict(zip(MODES, ("-", "--", "-.", ":"), strict=True))
_MARKERS = "osD^vP*X"
_PUBLISHED_COLOUR = "0.6"
_DPI = 160
_SHAPE = (7.5, 6.5)

Curve = tuple[list[int], list[float]]


def measured_curves(rows: Sequence[Row], image_set: str) -> dict[tuple[str, str], Curve]:
    """Return sizes and top-1 accuracies of each model and mode, sizes ascending.

    Models are called by their name, with the beginning of their weights' SHA-256 where several
    have the same. Of several precisions or backends at one size the last row counts.
    """
    chosen = [row for row in rows if row["set"] == image_set]
    weights: dict[str, set[str]] = {}
    for row in chosen:
        weights.setdefault(row["model"], set()).add(row["weights_sha256"])
    points: dict[tuple[str, str], dict[int, float]] = {}
    for row in chosen:
        name = row["model"]
        if len(weights[name]) > 1:
            name += f" {row['weights_sha256'][:_SHORT_HASH]}"
        points.setdefault((name, row["mode"]), {})[row["img_size"]] = row["top1"]
    return {curve: (sorted(at), [at[size] for size in sorted(at)]) for curve, at in points.items()}


def draw_sizes(output: Path) -> Path:
    """Draw the figure of a table of results.

    ImageNet's rows stand beside the published curves; without any, the rows of other images that
    were evaluated at several sizes are drawn.

    Parameters
    ----------
    output : Path
        The table's ``.csv``.

    Returns
    -------
    Path
        The PNG beside it, ``…-sizes.png``.

    Raises
    ------
    ValueError
        If the table has no rows of several sizes.
    RuntimeError
        If matplotlib is not installed.
    """
    rows = Results(output).rows
    names = [IMAGENET.name, *dict.fromkeys(row["set"] for row in rows if not row["corruption"])]
    for image_set in names:
        curves = measured_curves(rows, image_set)
        if any(len(sizes) > 1 for sizes, _ in curves.values()):
            break
    else:
        raise ValueError(f"output: {output} has no rows of one model at several sizes to draw")
    file = output.with_name(f"{output.stem}-sizes.png")
    picture = _drawn(curves, image_set)
    with written_durably(file) as target:
        picture.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    return file


def _drawn(curves: dict[tuple[str, str], Curve], image_set: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError(
            f"--figure needs the package matplotlib: {install_hint('evaluate')}"
        ) from None
    figure = Figure(figsize=_SHAPE, layout="constrained")
    axes = figure.add_subplot()
    if image_set == IMAGENET.name:
        _draw_published(axes)
    models = list(dict.fromkeys(model for model, _ in curves))
    for number, ((model, mode), (sizes, accuracies)) in enumerate(curves.items()):
        axes.plot(
            sizes,
            accuracies,
            _LINES[mode],
            color=f"C{number}",
            marker=_MARKERS[models.index(model) % len(_MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=f"{model}, {mode}",
            zorder=3,
        )
    ticks = sorted({size for sizes, _ in curves.values() for size in sizes})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("image size (pixels)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"One set of weights at several image sizes: {image_set}", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False,
        handlelength=4,
    )  # fmt: skip
    return figure


def _draw_published(axes: Any) -> None:
    for mode, accuracies in TINY_CURVES.items():
        label = f"TransNeXt-Tiny, {mode}, published"
        axes.plot(
            FIGURE_SIZES, accuracies, _LINES[mode], color=_PUBLISHED_COLOUR, lw=1.2, label=label
        )
    for marker, (name, accuracies) in zip("xd+", PEER_CURVES.items(), strict=True):
        axes.plot(
            FIGURE_SIZES[: len(accuracies)],
            accuracies,
            linestyle="-",
            color="0.8",
            marker=marker,
            markersize=5,
            lw=1.0,
            label=f"{name}, published",
        )
