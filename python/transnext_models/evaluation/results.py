"""The files of an evaluation: .csv, .json and .md of one table, whole after every row."""

from __future__ import annotations

import csv
import io
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch

import transnext_ops

from ..training.durable import remove_unfinished, write_text
from .rows import COLUMNS, KEY, MCE, Row, same

__all__ = ["CLASSIFICATION", "Layout", "Results", "as_markdown", "json_of"]

_FORMAT = 1
_SHORT_HASH = 8


@dataclass(frozen=True)
class Layout:
    """What the rows of a table hold.

    Attributes
    ----------
    columns : tuple[str, ...]
        Of the CSV file; every row has them.
    key : tuple[str, ...]
        Those that say whether two rows are of the same measurement.
    markdown : callable
        From rows to the table for people.
    """

    columns: tuple[str, ...]
    key: tuple[str, ...]
    markdown: Callable[[Sequence[Row]], str]

    def same(self, row: Row, other: Row) -> bool:
        """Whether two rows are of the same measurement."""
        return same(row, other, self.key)


class Results:
    """A table of rows that is on the disk as a whole after every row.

    The JSON file holds everything; the other two are written from it.

    Parameters
    ----------
    csv_file : Path
        Ends in ``.csv``; the others lie beside it.
    layout : Layout | None
        Of the rows; None is that of classification.

    Raises
    ------
    ValueError
        If the name does not end so, or a file of these names is none of an evaluation.
    """

    def __init__(self, csv_file: Path, layout: Layout | None = None) -> None:
        if csv_file.suffix != ".csv":
            raise ValueError(f"output: got {csv_file}, needs a name that ends in .csv")
        self.layout = CLASSIFICATION if layout is None else layout
        self.csv_file = csv_file
        self.json_file = json_of(csv_file)
        self.markdown_file = csv_file.with_suffix(".md")
        self.rows: list[Row] = []
        if self.json_file.exists():
            self.rows = _read(self.json_file, self.layout)
        else:
            for file in (self.csv_file, self.markdown_file):
                if file.exists():
                    raise ValueError(
                        f"output: {file} is there without {self.json_file.name}, so it is none of "
                        "an evaluation: choose another name"
                    )

    def has(self, key: Row) -> bool:
        """Whether the row that `key` describes is there."""
        return any(self.layout.same(row, key) for row in self.rows)

    def add(self, row: Row) -> None:
        """Add a row, in place of one of the same measurement, and write the files."""
        row = {**row, "details": {**row["details"], "versions": _versions()}}
        if self.json_file.exists():  # other evaluations may have added rows since
            self.rows = _read(self.json_file, self.layout)
        for index, old in enumerate(self.rows):
            if self.layout.same(old, row):
                self.rows[index] = row
                break
        else:
            self.rows.append(row)
        self.write()

    def check_writable(self) -> None:
        """Make sure that a row can be written, before hours are spent on one.

        Raises
        ------
        RuntimeError
            If it cannot; names the folder and says why.
        """
        folder = self.csv_file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RuntimeError(f"output: {folder} cannot be written ({error.strerror})") from error

    def write(self) -> None:
        """Write the files, unless they are so already; each is whole or as it was."""
        self.csv_file.parent.mkdir(parents=True, exist_ok=True)
        files = (self.json_file, self.csv_file, self.markdown_file)
        texts = (
            _as_json(self.rows),
            _as_csv(self.rows, self.layout.columns),
            self.layout.markdown(self.rows),
        )
        for file, text in zip(files, texts, strict=True):
            remove_unfinished(file)
            write_text(file, text)


def json_of(csv_file: Path) -> Path:
    """Return the JSON file that lies beside a CSV file."""
    return csv_file.with_suffix(".json")


def _read(file: Path, layout: Layout) -> list[Row]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"output: {file} is no JSON ({error}): choose another name") from error
    rows = document.get("rows") if isinstance(document, dict) else None
    if (
        not isinstance(rows, list)
        or document.get("format") != _FORMAT
        or not all(isinstance(row, dict) and set(layout.columns) <= set(row) for row in rows)
    ):
        raise ValueError(f"output: {file} is none of an evaluation: choose another name")
    return rows


def _as_json(rows: Sequence[Row]) -> str:
    """Return a document with one row on a line: the classes of a row would fill a thousand."""
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return f'{{"format": {_FORMAT}, "rows": [\n{lines}\n]}}\n'


def _as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table for people: published beside measured; ImageNet-C by corruption."""
    titles = ("model", "set", "size", "mode", "images", "top-1 %", "top-5 %", "published", "Δ", "")
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in rows:
        if row["corruption"] and row["severity"] != "":
            continue
        is_mce = row["corruption"] == MCE
        top1 = f"mCE {row['mce']:.2f}" if is_mce else f"{row['top1']:.2f}"
        cells = (
            f"{row['model']} `{row['weights_sha256'][:_SHORT_HASH]}`",
            row["set"],
            row["img_size"],
            row["mode"],
            row["images"],
            top1,
            f"{row['top5']:.2f}",
            "–" if row["published"] is None else f"{row['published']:.1f}",
            "–" if row["difference"] is None else f"{row['difference']:+.2f}",
            row["note"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = "\n".join(lines) + "\n"
    for row in rows:
        if row["corruption"] and row["severity"] == "":
            text += _corruptions_as_markdown(row)
    return text


CLASSIFICATION = Layout(COLUMNS, KEY, as_markdown)
"""Rows of `rows.row_of`."""


def _corruptions_as_markdown(row: Row) -> str:
    details = row["details"]
    ce: dict[str, Any] = details["ce"] or {}
    lines = [
        "",
        f"Top-1 error in % by severity: {row['model']}, {row['set']}, {row['img_size']}, "
        f"{row['mode']}; mean {row['top1_err']:.2f}.",
        "",
        "| corruption | 1 | 2 | 3 | 4 | 5 | CE |",
        f"|{' --- |' * 7}",
    ]
    for corruption, errors in details["errors"].items():
        numbers = " | ".join(f"{error:.2f}" for error in errors)
        relative = f"{ce[corruption]:.2f}" if ce else "–"
        lines.append(f"| {corruption} | {numbers} | {relative} |")
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str | None]:
    return {
        "transnext": transnext_ops.__version__,
        "torch": str(torch.__version__),
        "timm": _installed("timm"),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
