"""The answers of an evaluation that is not over: a file that a stopped one goes on with.

One line of JSON for each round, brought to the disk before the next. A line that a kill cut off is
left out, and its round done again. Numbers are written so that they are read back exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dense.found_objects import FoundObjects
from ..dense.run_lengths import run_lengths_of
from .engine import ImageAnswer, Round
from .mean_iou import PixelCounts
from .subjects import Answer

__all__ = ["Journal"]


class Journal:
    """Answers so far.

    Parameters
    ----------
    file : Path
        Where they are; what is there of another evaluation is replaced.
    identity : dict
        What an evaluation must have in common with one that it goes on with.

    Attributes
    ----------
    answers : dict[int, ImageAnswer]
        By the position of the image.
    seconds : float
        What they took.
    """

    def __init__(self, file: Path, identity: dict[str, Any]) -> None:
        self.file = file
        self.answers: dict[int, ImageAnswer] = {}
        self.seconds = 0.0
        kept = self._read(identity) if file.exists() else 0
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab") as stream:
            stream.truncate(kept)
        if not kept:
            self._write(identity)

    def take(self, done: Round) -> None:
        """Add a round, and bring it to the disk."""
        self._write({"seconds": done.seconds, "answers": [_as_json(one) for one in done.answers]})
        self._add(done)

    def remove(self) -> None:
        """Remove the file, and its folder where that is empty."""
        self.file.unlink()
        with contextlib.suppress(OSError):
            self.file.parent.rmdir()

    def _add(self, done: Round) -> None:
        self.seconds += done.seconds
        self.answers |= {one.position: one for one in done.answers}

    def _write(self, line: dict[str, Any]) -> None:
        with open(self.file, "ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, identity: dict[str, Any]) -> int:
        """Read whole lines; return how many bytes of the file they are, 0 where it is another's."""
        kept = 0
        with open(self.file, "rb") as lines:
            for number, line in enumerate(lines):
                try:
                    value = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    value = None
                if value is None or (number == 0 and value != identity):
                    break
                if number:
                    answers = [_from_json(entry) for entry in value["answers"]]
                    self._add(Round(answers, value["seconds"]))
                kept += len(line)
        return kept


def _as_json(one: ImageAnswer) -> dict[str, Any]:
    found = one.answer.found
    entry: dict[str, Any] = {"position": one.position, "seconds": one.seconds}
    entry["image"] = found.image_id
    if isinstance(found, PixelCounts):
        present = np.flatnonzero(found.predicted + found.labelled)
        entry["classes"] = len(found.right)
        entry["counts"] = [
            [int(label), *(int(v[label]) for v in (found.right, found.predicted, found.labelled))]
            for label in present
        ]
        return entry
    entry["boxes"], entry["scores"] = _exact(found.boxes), _exact(found.scores)
    entry["labels"] = found.labels.tolist()
    if found.masks is not None:
        entry["masks"] = [[list(mask.size), mask.packed()] for mask in found.masks]
    return entry


def _from_json(entry: dict[str, Any]) -> ImageAnswer:
    found: FoundObjects | PixelCounts
    if "counts" in entry:
        counts = np.zeros((3, entry["classes"]), np.int64)
        for label, *numbers in entry["counts"]:
            counts[:, label] = numbers
        found = PixelCounts(entry["image"], *counts)
    else:
        masks = entry.get("masks")
        found = FoundObjects(
            entry["image"],
            np.array(entry["boxes"], np.float32).reshape(-1, 4),
            np.array(entry["scores"], np.float32),
            np.array(entry["labels"], np.int64),
            None
            if masks is None
            else tuple(
                run_lengths_of({"size": size, "counts": counts}, tuple(size))
                for size, counts in masks
            ),
        )
    return ImageAnswer(entry["position"], entry["seconds"], Answer(found))


def _exact(values: NDArray[Any]) -> list[Any]:
    """Return float32 values as the shortest numbers that are read back as they are."""
    shortest: list[Any] = np.asarray(values, np.float32).astype(str).astype(np.float64).tolist()
    return shortest
