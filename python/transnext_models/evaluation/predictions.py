"""Save the answers of rows in one .npz file, which a stopped evaluation goes on with."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..training.durable import written_durably

__all__ = ["Predictions"]


class Predictions:
    """The predictions of several rows.

    Until the evaluation ends each row's lie in a file of their own, so that a row costs no copy of
    all before it.

    Parameters
    ----------
    file : Path
        Ends in ``.npz``. Its arrays are called ``ROW/path``, ``ROW/label``, ``ROW/top5``, …
    """

    def __init__(self, file: Path) -> None:
        if file.suffix != ".npz":
            raise ValueError(f"save_predictions: got {file}, needs a name that ends in .npz")
        self.file = file
        self._parts = file.with_name(f".{file.name}.parts")
        self._merged: set[str] = set()
        if file.exists():
            try:
                with np.load(file) as arrays:
                    self._merged = {name.rpartition("/")[0] for name in arrays.files}
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                raise ValueError(f"save_predictions: {file} is no .npz file ({error})") from error

    def has(self, row: str) -> bool:
        """Whether a row's predictions are there."""
        return row in self._merged or self._part(row).exists()

    def add(self, row: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Save a row's predictions, in place of those that are there."""
        self._parts.mkdir(parents=True, exist_ok=True)
        named: dict[str, Any] = {f"{row}/{name}": values for name, values in arrays.items()}
        with written_durably(self._part(row)) as file:
            np.savez_compressed(file, **named)

    def finish(self) -> None:
        """Bring everything into the one file."""
        if not self._parts.is_dir():
            return
        parts = sorted(self._parts.glob("*.npz"))
        with (
            written_durably(self.file) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as whole,
        ):
            taken: set[str] = set()
            for source in (*parts, self.file):
                if not source.exists():
                    continue
                with zipfile.ZipFile(source) as archive:
                    for member in archive.namelist():
                        if member not in taken:
                            taken.add(member)
                            whole.writestr(member, archive.read(member), zipfile.ZIP_DEFLATED)
        shutil.rmtree(self._parts)

    def _part(self, row: str) -> Path:
        return self._parts / f"{row.replace('/', '~')}.npz"
