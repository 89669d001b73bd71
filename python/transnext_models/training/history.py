"""The measurements of a run, one row per epoch: `metrics.csv`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["COLUMNS", "Row", "as_csv", "columns_with", "show", "validations_without_gain"]

Row = dict[str, Any]


def columns_with(*measures: str) -> tuple[str, ...]:
    """Return the columns of runs whose validations have these measures."""
    return (
        *("epoch", "step", "lr", "train_loss"),
        *measures,
        *("seconds", "cpu_seconds", "images_per_second"),
    )


COLUMNS = columns_with("val_loss", "val_top1", "val_top5")
"""epoch (from 0), step (optimiser steps so far), lr (of this epoch), train_loss, val_loss,
val_top1, val_top5 (0 to 1; empty where the epoch was not validated), seconds (since this process
began to train), cpu_seconds (of this process, all threads) and images_per_second (of the epoch's
training, all processes together)."""


def as_csv(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Return the content of `metrics.csv`.

    Checkpoints hold all rows, and the file is rewritten from them: it can be neither torn nor
    ahead of the weights.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def validations_without_gain(rows: Sequence[Row], score: str = "val_top1") -> int:
    """Count the validations since the last one whose score was better than all before it."""
    best, since = float("-inf"), 0
    for row in rows:
        if score in row:
            since = 0 if row[score] > best else since + 1
            best = max(best, row[score])
    return since


def show(row: Row, left: str) -> None:
    """Print a row to standard error, on one line, with how long the run will take."""
    shown = [f"{name} {value:.4g}" for name, value in row.items() if name != "epoch"]
    text = f"epoch {row['epoch']}: {', '.join(shown)}, run ends in {left}"
    print(text, file=sys.stderr, flush=True)
