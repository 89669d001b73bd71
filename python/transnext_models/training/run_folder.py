"""The folder of a run: what lies in it, and in which order it is written.

    config.json                    options of the run, resolved, written before training
    run.lock                       see `run_lock`
    checkpoints/last.ckpt          the newest state, with all rows of metrics.csv in it
    checkpoints/previous.ckpt      the one before, should the newest be damaged
    checkpoints/best.ckpt          the one after the best validation
    metrics.csv                    one row per epoch
    last.safetensors               the weights of the last epoch, at the end
    last_float16.safetensors
    model.safetensors              the weights of the best validation
    model_float16.safetensors
    report.html                    curves, confusion and worst images
    result.json                    the last epoch's measures, last of all: the run is over

Everything follows from `last.ckpt`. A run that was killed between two of these files writes what
is missing when it goes on (`settle`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import history
from .checkpoint_files import BEST, LAST, PREVIOUS, CheckpointFolder
from .durable import RunFileError, remove_unfinished, sync_folder, write_text

__all__ = ["RunFolder", "measures", "read_configuration", "read_configuration_file"]


class RunFolder:
    """The files of one run; written by its first process only, which holds its lock.

    Parameters
    ----------
    path : Path
        Of the folder, which need not exist.
    columns : Sequence[str]
        Of metrics.csv.
    """

    def __init__(self, path: Path, columns: Sequence[str] = history.COLUMNS) -> None:
        self.path = path
        self._columns = columns
        self.config = path / "config.json"
        self.metrics = path / "metrics.csv"
        self.weights = path / "model.safetensors"
        self.half_weights = path / "model_float16.safetensors"
        self.last_weights = path / "last.safetensors"
        self.last_half_weights = path / "last_float16.safetensors"
        self.report = path / "report.html"
        self.result = path / "result.json"
        self.checkpoints = CheckpointFolder(path / "checkpoints")

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints.path / LAST

    @property
    def has_begun(self) -> bool:
        """Whether there is something to lose in the folder: a checkpoint or a result."""
        return self.checkpoints.has_begun or self.result.exists()

    def create(self) -> None:
        """Make the folders, and sweep up after a process that was killed.

        Raises
        ------
        RunFileError
            They cannot be made.
        """
        try:
            self.checkpoints.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.path.absolute().parent):
                sync_folder(folder)
        except OSError as error:
            raise RunFileError(f"{self.path}: cannot be made ({error.strerror})") from error
        exports = (self.weights, self.half_weights, self.last_weights, self.last_half_weights)
        names = (self.config, self.metrics, *exports, self.report, self.result)
        for name in (*names, *(self.checkpoints.path / name for name in (LAST, PREVIOUS, BEST))):
            remove_unfinished(name)

    def save(self, content: dict[str, Any], is_best: bool, configuration: dict[str, Any]) -> None:
        """Write the newest checkpoint, and what follows from it.

        Parameters
        ----------
        content : dict[str, Any]
            See `TrainingState.content`.
        is_best : bool
            Whether it follows the best validation so far.
        configuration : dict[str, Any]
            Of the run; a checkpoint that is taken elsewhere still knows it.

        Raises
        ------
        RunFileError
            A file cannot be written; what was there before still is.
        """
        self.checkpoints.save({**content, "configuration": configuration})
        if is_best:
            self.checkpoints.keep_best()
        if content["training"]["finished"]:
            write_text(self.metrics, history.as_csv(content["training"]["rows"], self._columns))

    def settle(
        self, content: dict[str, Any] | None, source: Path | None, is_complete: bool
    ) -> bool:
        """Bring the files that follow from a checkpoint in line with the one a run goes on from.

        Parameters
        ----------
        content, source
            Of the checkpoint; None where the run starts from the beginning.
        is_complete : bool
            Whether nothing is left to train. If not, an older result is none of this run.

        Returns
        -------
        Whether the checkpoint after the best validation is there, or there was none yet.
        """
        rows = [] if content is None else content["training"]["rows"]
        if rows:
            write_text(self.metrics, history.as_csv(rows, self._columns))
        else:
            self.metrics.unlink(missing_ok=True)
        if not is_complete:
            self.result.unlink(missing_ok=True)
        if content is not None and source is not None:
            best = content["training"]["best"]
            if best is not None and best["epoch"] < content["epoch"]:
                source = source.with_name(BEST)  # matters where the run moves to another folder
            if best is not None:
                if not source.exists():
                    return False
                self.checkpoints.keep_best(source)
        return True

    def write_configuration(self, configuration: dict[str, Any]) -> None:
        """Write config.json, unless it is there and can be read."""
        with contextlib.suppress(ValueError):
            if read_configuration(self.path) is not None:
                return
        write_text(self.config, json.dumps(configuration, indent=2) + "\n")

    def write_result(self, row: history.Row, best: dict[str, float] | None) -> None:
        """Write result.json, the last file of a run: the last row's measures, and the best."""
        found = {f"best_{name}": value for name, value in (best or {}).items()}
        write_text(self.result, json.dumps({**measures(row), **found}, indent=2) + "\n")


def measures(row: history.Row) -> dict[str, float]:
    """Losses and accuracies of a row."""
    return {name: value for name, value in row.items() if name.startswith(("train_", "val_"))}


def read_configuration(folder: Path) -> dict[str, Any] | None:
    """Return config.json of a run, None where there is none.

    Raises
    ------
    ValueError
        It is damaged; names it.
    """
    try:
        return read_configuration_file(folder / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_configuration_file(path: Path) -> dict[str, Any]:
    """Return the configuration of a run in the file `path`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is none.
    ValueError
        It is damaged; names it.
    """
    try:
        configuration = json.loads(path.read_text())
        if not (
            isinstance(configuration, dict)
            and isinstance(configuration.get("resolved"), dict)
            and isinstance(configuration.get("options"), dict)
        ):
            raise ValueError("it has no `resolved` and no `options`")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not the configuration of a run: {error}") from error
    return configuration
