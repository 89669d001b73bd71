"""What a run does between epochs, besides Lightning's own checkpoints and averages."""

from __future__ import annotations

import csv
import random
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from .data import epoch_seed

__all__ = ["EpochLog", "SeedEpochs"]


class SeedEpochs(pl.Callback):
    """Seed all random numbers anew at each epoch from (seed, epoch, rank).

    A run resumed at the start of an epoch then draws what an uninterrupted run would have drawn,
    without any state of generators in the checkpoint. Loading processes are seeded by the loader's
    generator, which `TrainingData` and this class set to the same number.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank)
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002 -- timm's mixup draws from NumPy's global generator
        random.seed(state)
        assert trainer.train_dataloader is not None
        trainer.train_dataloader.generator.manual_seed(state)


class EpochLog(pl.Callback):
    """Write one row per epoch to a CSV file, and a line to standard error.

    Columns: epoch (from 0), step (optimiser steps so far), lr (of this epoch), train_loss,
    val_loss, val_top1, val_top5 (0 to 1; empty where the epoch was not validated), seconds (since
    this process began to train) and cpu_seconds (of this process, all threads). Rows of epochs that
    a resumed run repeats are replaced.
    """

    COLUMNS = (
        "epoch",
        "step",
        "lr",
        "train_loss",
        "val_loss",
        "val_top1",
        "val_top5",
        "seconds",
        "cpu_seconds",
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._validated: dict[str, float] = {}
        self._rate = 0.0
        self._began = (0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = (time.perf_counter(), time.process_time())
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [dict(row) for row in csv.DictReader(file)]
            self._rows = [row for row in rows if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = {}
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = ("val_loss", "val_top1", "val_top5")
        self._validated = {name: float(trainer.callback_metrics[name]) for name in names}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": self._rate,
            "train_loss": float(trainer.callback_metrics["train_loss"]),
            **self._validated,
            "seconds": round(time.perf_counter() - self._began[0], 1),
            "cpu_seconds": round(time.process_time() - self._began[1], 1),
        }
        self._rows.append(row)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)
        shown = [f"{name} {value:.4g}" for name, value in row.items() if name != "epoch"]
        print(f"epoch {row['epoch']}: " + ", ".join(shown), file=sys.stderr, flush=True)
