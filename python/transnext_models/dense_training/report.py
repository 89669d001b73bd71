"""`report.html` of a detector's or segmentor's run: curves, and the classes' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..training.figures import curves_picture
from ..training.report import render_page
from ..training.task import Finished

__all__ = ["dense_report"]


def dense_report(
    run: Finished,
    images: int,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[float]],
) -> str:
    """Return the page.

    Parameters
    ----------
    run : Finished
        What it has come to.
    images : int
        On which the best weights were scored.
    class_names : Sequence[str]
        Of the set.
    columns : Mapping[str, Sequence[float]]
        Scores of the classes by their name, from 0 to 1; NaN where there is none.
    """
    last = run.rows[-1]
    scores = [name for name in last if name.startswith("val_")]
    results = [("epochs", str(last["epoch"] + 1))]
    if run.best is not None:
        results += [
            (f"best {_title(name)}", f"{value:.2%} after epoch {run.best['epoch']}")
            for name, value in run.best.items()
            if name != "epoch"
        ]
    results += [(f"last {_title(name)}", f"{last[name]:.2%}") for name in scores]
    results.append(("last training loss", f"{last['train_loss']:.4f}"))
    rows = [
        (name, *map(_percent, values))
        for name, *values in zip(class_names, *columns.values(), strict=True)
    ]
    return render_page(
        run.configuration,
        results=results,
        curves=curves_picture(run.rows, "scores", scores),
        says=f"The best weights on {images:,} validation images.",
        columns=("class", *columns),
        classes=rows,
    )


def _title(name: str) -> str:
    return name.removeprefix("val_").replace("_", " ")


def _percent(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.1%}"
