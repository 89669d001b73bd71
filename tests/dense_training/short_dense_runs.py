"""Runs of seconds on sets of a few images, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transnext_models.dense_training.options import DenseOptions
from transnext_models.dense_training.tasks import DETECTION, SEGMENTATION

TASKS = {"detect": DETECTION, "segment": SEGMENTATION}
MODELS = {"detect": "maskrcnn_transnext_pico", "segment": "upernet_transnext_pico"}


def options(folder: Path, data: Path, kind: str, **changes: Any) -> DenseOptions:
    """Four steps at a small size: two epochs of two, of a detector or of a segmentor."""
    values: dict[str, Any] = {
        "output": folder,
        "data": data,
        "model": MODELS[kind],
        "size": 64,
        "batch_size": {"detect": 1, "segment": 2}[kind],
        "epochs": 2,
        "limit_val_batches": 2,
        "workers": 0,
        "devices": "1",
        "report": False,
    }
    return DenseOptions(**{**values, **changes})
