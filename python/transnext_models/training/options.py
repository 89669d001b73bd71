"""What a run is told, and what is refused before anything is loaded or written."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transnext_ops.backends.registry import check_backend_name

from ..classification.preprocess import MIN_SIZE
from .launch import parse_devices

__all__ = ["RunOptions", "check_options", "portable_options"]

_LARGEST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class RunOptions:
    """What the command line says; None stands for the recipe's value.

    Attributes
    ----------
    recipe : name of the recipe.
    data : folder, name of a data set, or "digits"; None only for a recipe with its own data.
    data_root : where a named data set is kept.
    model : name of the model.
    epochs, batch_size : length, and images per device and step.
    lr : peak learning rate for this run's total batch; None scales the recipe's by `total batch /
        its batch`.
    img_size, pretrain_size, num_classes : of the model.
    weights : file or name of weights to start from.
    output : folder of the run.
    resume : checkpoint, or folder of a run, to continue.
    precision, devices, num_nodes : as Lightning Fabric takes them.
    accumulate : batches per optimiser step.
    workers : loading processes per device.
    seed : of all random numbers, 0 to 2³² − 1.
    backend : operator backend of the model.
    compile : whether to compile the model with torch.compile.
    limit_train_batches, limit_val_batches : shorten an epoch, for a quick look.
    half : also export float16 weights.
    checkpoint_every_steps, checkpoint_every_minutes : write checkpoints within epochs too, so many
        optimiser steps or minutes apart; None for none.
    """

    recipe: str
    output: Path
    data: str | None = None
    data_root: Path | None = None
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    img_size: int | None = None
    pretrain_size: int | None = None
    num_classes: int | None = None
    weights: str | None = None
    resume: Path | None = None
    precision: str | None = None
    devices: str = "auto"
    num_nodes: int = 1
    accumulate: int = 1
    workers: int = 4
    seed: int = 0
    backend: str | None = None
    compile: bool = False
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    half: bool = True
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = None


_POSITIVE = (
    "epochs",
    "batch_size",
    "lr",
    "img_size",
    "pretrain_size",
    "num_classes",
    "num_nodes",
    "accumulate",
    "limit_train_batches",
    "limit_val_batches",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
)


def check_options(options: RunOptions) -> None:
    """Refuse what cannot be meant.

    Raises
    ------
    ValueError : names the option.
    """
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if options.workers < 0:
        raise ValueError(f"--workers must be 0 or more, got {options.workers}")
    if not 0 <= options.seed <= _LARGEST_SEED:
        raise ValueError(f"--seed must be 0 to {_LARGEST_SEED}, got {options.seed}")
    for name in ("img_size", "pretrain_size"):
        value = getattr(options, name)
        if value is not None and value < MIN_SIZE:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {MIN_SIZE}, got {value}")
    if options.backend is not None:
        check_backend_name(options.backend, "--backend")
    parse_devices(options.devices)


def portable_options(options: RunOptions) -> dict[str, Any]:
    """Return the options as JSON takes them, so that they mean the same in another folder."""
    values = dataclasses.asdict(options)
    for name in ("data", "data_root", "weights"):
        if values[name] is not None and os.path.exists(values[name]):
            values[name] = os.path.abspath(values[name])
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }
