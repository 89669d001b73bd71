"""Where a run's measurements go besides `metrics.csv`: TensorBoard, Weights & Biases.

Both are callbacks of the loop and get whole rows. Neither can end a run: what goes wrong is said
once, and the rows are still in the checkpoints and in `metrics.csv`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .history import Row

__all__ = ["TensorBoard", "WeightsAndBiases", "build_loggers"]

_TENSORBOARDS = ("tensorboard", "tensorboardX")


def build_loggers(
    folder: Path, wandb_project: str | None, configuration: Mapping[str, Any]
) -> list[Any]:
    """Return the loggers of a run: TensorBoard's where it is installed, others on demand.

    Raises
    ------
    RuntimeError
        wandb was asked for and is not installed.
    """
    loggers: list[Any] = []
    if any(importlib.util.find_spec(name) for name in _TENSORBOARDS):
        loggers.append(TensorBoard(folder / "tensorboard"))
    if wandb_project is not None:
        if importlib.util.find_spec("wandb") is None:
            raise RuntimeError("--wandb needs the package wandb: pip install wandb")
        loggers.append(WeightsAndBiases(folder, wandb_project, configuration))
    return loggers


class _Logger:
    """Hands rows on, on the first process, until something goes wrong."""

    name = ""

    def __init__(self) -> None:
        self._is_broken = False

    def open(self, rows: list[Row]) -> None:
        """Begin, with the rows that the run has already."""
        raise NotImplementedError

    def write(self, row: Row) -> None:
        """Take the row of an epoch."""
        raise NotImplementedError

    def close(self) -> None:
        """End."""
        raise NotImplementedError

    def on_train_start(self, loop: Any, module: Any) -> None:
        """Open the log of a run that has something left to train."""
        if not loop.is_complete:
            self._tried(loop, lambda: self.open(loop.state.rows))

    def on_train_epoch_end(self, loop: Any, module: Any) -> None:
        """Write the row of the epoch."""
        self._tried(loop, lambda: self.write(loop.state.rows[-1]))

    def on_train_end(self, loop: Any, module: Any) -> None:
        """Close the log."""
        self._tried(loop, self.close)

    def _tried(self, loop: Any, act: Any) -> None:
        if self._is_broken or not loop.is_global_zero:
            return
        try:
            act()
        except Exception as error:  # a log is no reason to lose a run
            self._is_broken = True
            print(f"{self.name}: no longer written: {error}", file=sys.stderr, flush=True)


def _numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch"}


class TensorBoard(_Logger):
    """Event files in the folder of a run, written anew from all rows when the run goes on.

    So no epoch is in them twice, whenever the run was killed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._logger: Any = None

    def open(self, rows: list[Row]) -> None:
        """See `_Logger.open`."""
        from lightning.fabric.loggers import TensorBoardLogger

        if rows:  # otherwise what lies there is not this run's
            for path in self._folder.glob("events.out.tfevents.*"):
                path.unlink()
        self._logger = TensorBoardLogger(
            self._folder.parent, name="", version=self._folder.name, default_hp_metric=False
        )
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """See `_Logger.write`."""
        if self._logger is not None:
            self._logger.log_metrics(_numbers(row), step=row["epoch"])
            self._logger.save()

    def close(self) -> None:
        """See `_Logger.close`."""
        if self._logger is not None:
            self._logger.finalize("success")


class WeightsAndBiases(_Logger):
    """A run of a W&B project; one that goes on is the same run there.

    Parameters
    ----------
    folder : Path
        Of the run; its name is the run's there.
    """

    name = "wandb"

    def __init__(self, folder: Path, project: str, configuration: Mapping[str, Any]) -> None:
        super().__init__()
        self._folder = folder
        self._project = project
        self._configuration = configuration
        self._run: Any = None

    def open(self, rows: list[Row]) -> None:
        """See `_Logger.open`; rows from before are there already."""
        import wandb

        place = f"{self._folder.resolve()} {json.dumps(self._configuration, sort_keys=True)}"
        self._run = wandb.init(
            project=self._project,
            name=self._folder.resolve().name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(self._folder),
            config=dict(self._configuration),
        )

    def write(self, row: Row) -> None:
        """See `_Logger.write`."""
        if self._run is not None:
            self._run.log(_numbers(row), step=row["epoch"])

    def close(self) -> None:
        """See `_Logger.close`."""
        if self._run is not None:
            self._run.finish()
