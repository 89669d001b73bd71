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
_PUBLISHED = "0.55"  # their colour
_MARGIN = 0.05  # of the accuracies' range, above and below
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
    models = list(dict.fromkeys(model for model, _ in curves))
    measured = []
    for number, ((model, mode), (sizes, accuracies)) in enumerate(curves.items()):
        measured += axes.plot(
            sizes,
            accuracies,
            _LINES[mode],
            color=f"C{number}",
            marker=_MARKERS[models.index(model) % len(_MARKERS)],
            markersize=5,
            linewidth=1.8,
            label=mode if len(models) == 1 else f"{model}, {mode}",
            zorder=3,
        )
    shown = [number for _, accuracies in curves.values() for number in accuracies]
    ticks = {size for sizes, _ in curves.values() for size in sizes}
    published = []
    if image_set == IMAGENET.name:
        published = _draw_published(axes)
        ticks |= set(FIGURE_SIZES)
        shown += [number for accuracies in TINY_CURVES.values() for number in accuracies]
    # Where a peer's accuracy breaks down its curve leaves the picture, so that the others differ.
    margin = _MARGIN * (max(shown) - min(shown)) or 1.0
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    axes.set_xlabel("image size (pixels)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(_title(models, image_set), fontsize=11)
    axes.grid(alpha=0.3)
    for lines, title, side in ((measured, "measured", "left"), (published, "published", "right")):
        if lines:
            look: dict[str, Any] = {"loc": f"outside lower {side}", "alignment": "left"}
            look |= {"frameon": False, "handlelength": 4, "fontsize": 8}
            figure.legend(handles=lines, title=title, **look)
    return figure


def _title(models: Sequence[str], image_set: str) -> str:
    whose = f"{models[0]}: the same weights" if len(models) == 1 else "The same weights"
    return f"{whose} at several image sizes, {image_set}"


def _draw_published(axes: Any) -> list[Any]:
    """Draw the published curves in grey, Tiny's in the lines of its modes, peers' with marks."""
    common = {"color": _PUBLISHED, "linewidth": 1.0}
    lines = []
    for mode, accuracies in TINY_CURVES.items():
        label = f"TransNeXt-Tiny, {mode}"
        lines += axes.plot(FIGURE_SIZES, accuracies, _LINES[mode], label=label, **common)
    for marker, (name, accuracies) in zip("xd+", PEER_CURVES.items(), strict=True):
        sizes = FIGURE_SIZES[: len(accuracies)]
        lines += axes.plot(sizes, accuracies, f"{marker}-", markersize=5, label=name, **common)
    return lines
