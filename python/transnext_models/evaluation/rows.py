"""Rows of results: timm's columns, then this project's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .answers import BINS, Summary
from .corruption_error import corruption_errors
from .image_sets import CORRUPTIONS, IMAGENET_C, SEVERITIES
from .models import Built, EvaluatedModel
from .preparation import Prepare
from .published import published_result

__all__ = ["COLUMNS", "KEY", "MCE", "Row", "corruption_row", "row_of", "same"]

Row = dict[str, Any]

_TIMM = (
    *("model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct"),
    "interpolation",
)
_OWN = (
    *("set", "images", "loss", "crop_mode", "pool", "position_bias", "precision", "backend"),
    *("device", "seconds", "images_per_second", "weights_sha256", "published", "difference"),
    *("mode", "corruption", "severity", "mce", "note"),
)
COLUMNS = (*_TIMM, *_OWN)
"""Of the CSV file. The first are those of timm's results-*.csv, so that its tools read it."""

KEY = (
    *("model", "weights_sha256", "set", "corruption", "severity", "img_size", "mode"),
    *("precision", "backend", "note"),
)
"""What says whether two rows are of the same measurement; device, batch size and time do not."""

MCE = "mCE"
_PERCENT_DIGITS, _LOSS_DIGITS = 4, 4


def row_of(
    model: EvaluatedModel,
    built: Built,
    prepare: Prepare,
    summary: Summary,
    *,
    set_name: str,
    mode: str,
    precision: str,
    device: str,
    seconds: float,
    corruption: str = "",
    severity: int | str = "",
    note: str = "",
) -> Row:
    """Return the row of a set, with what is only in the JSON file under `details`."""
    top1, top5 = round(summary.top1, _PERCENT_DIGITS), round(summary.top5, _PERCENT_DIGITS)
    published = None
    if model.is_imagenet and not corruption:
        published = published_result(model.name, set_name, prepare.size, mode)
    folders = model.class_folders
    return {
        "model": model.name,
        "img_size": prepare.size,
        "top1": top1,
        "top1_err": round(100 - top1, _PERCENT_DIGITS),
        "top5": top5,
        "top5_err": round(100 - top5, _PERCENT_DIGITS),
        "param_count": round(model.parameters / 1e6, 2),
        "crop_pct": prepare.crop_pct,
        "interpolation": prepare.interpolation,
        "set": set_name,
        "images": summary.images,
        "loss": None if summary.loss is None else round(summary.loss, _LOSS_DIGITS),
        "crop_mode": prepare.crop_mode,
        "pool": built.pool,
        "position_bias": built.position_bias,
        "precision": precision,
        "backend": built.backend,
        "device": device,
        "seconds": round(seconds, 2),
        "images_per_second": round(summary.images / max(seconds, 1e-9), 1),
        "weights_sha256": model.weights_sha256,
        "published": published,
        "difference": None if published is None else round(top1 - published, _PERCENT_DIGITS),
        "mode": mode,
        "corruption": corruption,
        "severity": severity,
        "mce": None,
        "note": note,
        "details": {
            "weights": model.weights,
            "correct1": summary.correct1,
            "correct5": summary.correct5,
            "expected_calibration_error": round(summary.calibration_error, 6),
            "calibration_bins": [
                {"above": b / BINS, "images": count, "correct": right, "confidence": total}
                for b, (count, right, total) in enumerate(summary.bins)
            ],
            "per_class": {
                folders[label]: {"correct": hits, "images": total}
                for label, (hits, total) in summary.per_class.items()
            },
        },
    }


def corruption_row(rows: Sequence[Row], *, is_published_set: bool) -> Row:
    """Return the row that sums up the 75 of the corruptions.

    Parameters
    ----------
    rows : sequence of Row
        Of one model, size and mode: each corruption at each severity.
    is_published_set : bool
        Whether these are ImageNet-C's images. Of images made otherwise there is no mean corruption
        error, which is a number of that set.
    """
    by_place = {(row["corruption"], row["severity"]): row for row in rows}
    wrong = {
        place: (row["images"] - row["details"]["correct1"]) / row["images"]
        for place, row in by_place.items()
    }
    errors = corruption_errors(wrong)
    first = by_place[CORRUPTIONS[0], SEVERITIES[0]]
    images = sum(row["images"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    top1_err = 100 * errors.mean_error
    top5 = sum(100 * row["details"]["correct5"] / row["images"] for row in rows) / len(rows)
    mce = errors.mce if is_published_set else None
    published = None
    if is_published_set:
        place = first["img_size"], first["mode"]
        published = published_result(first["model"], IMAGENET_C.name, *place)
    return {
        **first,
        "top1": round(100 - top1_err, _PERCENT_DIGITS),
        "top1_err": round(top1_err, _PERCENT_DIGITS),
        "top5": round(top5, _PERCENT_DIGITS),
        "top5_err": round(100 - top5, _PERCENT_DIGITS),
        "images": images,
        "loss": round(sum(row["loss"] * row["images"] for row in rows) / images, _LOSS_DIGITS),
        "seconds": round(seconds, 2),
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "published": published,
        "difference": None if published is None or mce is None else round(mce - published, 4),
        "corruption": MCE if is_published_set else "mean",
        "severity": "",
        "mce": None if mce is None else round(mce, _PERCENT_DIGITS),
        "note": next((row["note"] for row in rows if row["note"]), ""),
        "details": {
            "weights": first["details"]["weights"],
            "mce": mce,
            "mean_error": top1_err,
            "ce": errors.ce if is_published_set else None,
            "errors": {
                corruption: [100 * error for error in by_severity]
                for corruption, by_severity in errors.errors.items()
            },
        },
    }


def same(row: Mapping[str, Any], other: Mapping[str, Any], key: Sequence[str] = KEY) -> bool:
    """Whether two rows are of the same measurement."""
    return all(row.get(name) == other.get(name) for name in key)
