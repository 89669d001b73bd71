"""Rows of results: one for each metric of a model on a set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evaluation.results import Layout
from ..evaluation.rows import Row
from .average_precision import MAX_DETECTIONS, AveragePrecision
from .mean_iou import MeanIoU
from .published import published_score

__all__ = ["DENSE", "dense_row"]

COLUMNS = (
    *("model", "metric", "value", "published", "difference", "set", "images", "mode"),
    *("param_count", "precision", "backend", "device", "seconds", "images_per_second"),
    *("weights_sha256", "note"),
)
KEY = (*("model", "weights_sha256", "metric", "set", "mode", "precision", "backend", "note"),)
_DIGITS = 4
_SHORT_HASH = 8


def dense_row(
    model: str,
    metric: str,
    score: AveragePrecision | MeanIoU,
    *,
    image_set: str,
    images: int,
    seconds: float,
    class_names: Sequence[str],
    mode: str = "single",
    parameters: int = 0,
    precision: str = "float32",
    backend: str = "",
    device: str = "cpu",
    weights_sha256: str = "",
    note: str = "",
) -> Row:
    """Return the row of a metric, with what is only in the JSON file under `details`.

    Parameters
    ----------
    model : str
        Its name, with or without a tag.
    metric : str
        ``box AP``, ``mask AP`` or ``mIoU``.
    score : AveragePrecision | MeanIoU
        Of it; rows are in percent.
    image_set, mode : str
        As for `published.published_score`.
    images, seconds : int, float
        Of the set, and what they took.
    class_names : Sequence[str]
        Of the set.
    parameters : int
        Of the model.
    """
    value = score.ap if isinstance(score, AveragePrecision) else score.miou
    percent = _percent(value)
    published = published_score(model, metric, image_set, mode)
    difference = None
    if published is not None and percent is not None:
        difference = round(percent - published, _DIGITS)
    return {
        "model": model,
        "metric": metric,
        "value": percent,
        "published": published,
        "difference": difference,
        "set": image_set,
        "images": images,
        "mode": mode,
        "param_count": round(parameters / 1e6, 2),
        "precision": precision,
        "backend": backend,
        "device": device,
        "seconds": round(seconds, 2),
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "weights_sha256": weights_sha256,
        "note": note,
        "details": _details(score, class_names),
    }


def _details(score: AveragePrecision | MeanIoU, class_names: Sequence[str]) -> dict[str, Any]:
    numbers = asdict(score)
    details: dict[str, Any] = {
        name: _percent(number) for name, number in numbers.items() if isinstance(number, float)
    }
    if isinstance(score, AveragePrecision):
        pairs = zip(MAX_DETECTIONS, score.recall, strict=True)
        details["recall"] = {str(most): _percent(recall) for most, recall in pairs}
        per_class = score.per_class
    else:
        per_class = score.per_class_iou
        details["per_class_accuracy"] = _by_name(class_names, score.per_class_accuracy)
    details["per_class"] = _by_name(class_names, per_class)
    return details


def _by_name(names: Sequence[str], values: Sequence[float]) -> list[Mapping[str, Any]]:
    """Return a list: names need not be unique."""
    pairs = zip(names, values, strict=True)
    return [{"class": name, "value": _percent(value)} for name, value in pairs]


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, _DIGITS)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table for people: published beside measured."""
    titles = ("model", "set", "mode", "images", "metric", "measured", "published", "Δ", "")
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in rows:
        cells = (
            f"{row['model']} `{row['weights_sha256'][:_SHORT_HASH]}`",
            *(row["set"], row["mode"], row["images"], row["metric"]),
            *(_cell(row["value"], ".2f"), _cell(row["published"], ".1f")),
            *(_cell(row["difference"], "+.2f"), row["note"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


DENSE = Layout(COLUMNS, KEY, as_markdown)
"""Of `evaluation.results.Results`."""
