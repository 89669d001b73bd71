"""The weights that a run exports: of the last epoch and of the best, in full and half precision."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..checkpoints import read_weights
from ..checkpoints.convert import describe_weights
from ..checkpoints.limits import LONGEST_CLASS_NAME
from .checkpoint_files import BEST, CheckpointDamaged, read_checkpoint
from .durable import written_durably
from .run_folder import RunFolder
from .state import PREFIX, TrainingState

__all__ = ["export_half", "export_run", "export_weights", "named_classes"]


def export_run(
    folder: RunFolder,
    state: TrainingState,
    metadata: dict[str, str],
    half: bool,
    score: str = "val_top1",
    whole: bool = False,
) -> None:
    """Write the weights of the last epoch and of the best, if they are not there.

    Without a result, weights that lie there are those of an earlier attempt.

    Parameters
    ----------
    state : TrainingState
        Of a run that is over.
    metadata : dict[str, str]
        What both are told to be, besides their epoch and score.
    half : bool
        Whether float16 weights are written too.
    score : str
        The measure that goes with them.
    whole : bool
        See `export_half`.
    """
    is_over = folder.result.exists()

    def exported(
        full: Path, small: Path, weights: Callable[[], tuple[int, dict[str, Tensor]]]
    ) -> None:
        if not (is_over and full.exists()):
            epoch, tensors = weights()
            value = state.rows[epoch].get(score)
            told = {} if value is None else {score: f"{value:.6g}"}
            export_weights(full, tensors, {**metadata, **told, "epoch": str(epoch)})
        if half and not (is_over and small.exists()):
            export_half(full, small, whole)

    exported(folder.last_weights, folder.last_half_weights, lambda: _last(state))
    exported(folder.weights, folder.half_weights, lambda: _best(folder, state))


def named_classes(names: Sequence[str] | None, num_classes: int) -> dict[str, str]:
    """Return the classes' names as metadata, where these are such that a reader believes them."""
    if names is None or len(names) != num_classes:
        return {}
    if any(len(name) > LONGEST_CLASS_NAME for name in names):
        return {}
    return {"class_names": json.dumps(list(names))}


def _last(state: TrainingState) -> tuple[int, dict[str, Tensor]]:
    """Return the last epoch and its weights."""
    weights = state.evaluated.state_dict()
    return state.epoch, {name: value.detach().cpu() for name, value in weights.items()}


def _best(folder: RunFolder, state: TrainingState) -> tuple[int, dict[str, Tensor]]:
    """Return the epoch of the best validation and its weights; the last, and a word, without."""
    if state.best is None or state.best["epoch"] == state.epoch:
        return _last(state)
    try:
        content = read_checkpoint(folder.checkpoints.path / BEST)
    except CheckpointDamaged as error:
        print(
            f"{error}: {folder.weights.name} has the weights of the last epoch",
            file=sys.stderr,
            flush=True,
        )
        return _last(state)
    weights = {name.removeprefix(PREFIX): x for name, x in content["state_dict"].items()}
    return int(content["epoch"]), weights


def export_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the entries of `state` as they are.

    Raises
    ------
    RunFileError
        The file cannot be written.
    """
    _write(path, save(state, {"format": "pt", **metadata}))


def export_half(weights: Path, path: Path, whole: bool = False) -> None:
    """Write the weights in the file `weights` as float16, with what is known about them.

    Parameters
    ----------
    whole : bool
        Whether they are those of a backbone with heads, whose counters are left out.

    Raises
    ------
    ValueError
        A weight is too large for float16.
    RunFileError
        The file cannot be written.
    """
    read = read_weights(weights, strict=not whole, whole=whole)
    state = {name: value.half().contiguous() for name, value in read.state_dict.items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{path}: {name!r} has values too large for float16: give --no-float16"
            )
    metadata = {"format": "pt", **read.metadata} if whole else describe_weights(read)
    _write(path, save(state, metadata))


def _write(path: Path, content: bytes) -> None:
    with written_durably(path) as file:
        file.write(_in_order(content))


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its header's entries ordered by name.

    Equal weights then are equal files: the library writes the metadata in another order every time.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header.encode()) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[8 + length :]
