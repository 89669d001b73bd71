"""Tables of paths and labels: CSV files."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .classes import image_key, in_order
from .folders import Files
from .packed_names import PackedNames

__all__ = ["Row", "read_rows", "table_splits"]

_PATH, _LABEL, _LABELS, _SPLIT = "path", "label", "labels", "split"
_BETWEEN_LABELS = ";"
_SPLITS = {"train": "train", "val": "val", "validation": "val"}
_LOOKED_FOR = 100  # of the first paths, one must lead to a file
_LARGEST_LABEL = 1 << 20


class Row(NamedTuple):
    """One line: an image, its labels (one, or any number), and its split if the table says it."""

    path: str
    labels: tuple[str, ...]
    split: str | None
    line: int


class Table(NamedTuple):
    """A table that was read.

    `classes` are the columns of a table with one for each class; `has_several` says that an image
    can have any number of labels.
    """

    path: Path
    rows: list[Row]
    has_several: bool
    classes: tuple[str, ...] | None


def table_splits(train: Path, val: Path | None, root: Path | None) -> tuple[Files, Files]:
    """Return the images of both splits.

    Parameters
    ----------
    train, val : Path, Path | None
        A table each; or one of both splits, with a column `split`.
    root : Path | None
        What relative paths start from, if not from their table's folder.

    Raises
    ------
    ValueError
        A table cannot be read, or says what cannot be meant; names the line.
    """
    table = read_rows(train)
    if val is None:
        if any(row.split is None for row in table.rows):
            raise ValueError(
                f"{train}: has no column split, needs it or a table given by --data-val"
            )
        tables = [_of_split(table, split) for split in ("train", "val")]
    else:
        tables = [_of_split(table, "train"), _of_split(read_rows(val), "val")]
        if os.path.samefile(train, val) and table.rows[0].split is None:
            raise ValueError(f"{train}: is given for training and for validation")
    if tables[0].has_several != tables[1].has_several:
        raise ValueError(f"{train} and {val}: one gives an image one label, the other several")
    if tables[0].has_several:
        classes = _classes_of(tables)
        return _several(tables[0], classes, root), _several(tables[1], classes, root)
    are_numbers = all(_is_number(row.labels[0]) for one in tables for row in one.rows)
    make = _numbered if are_numbers else _named
    return make(tables[0], root), make(tables[1], root)


def read_rows(path: Path) -> Table:
    """Read a table: its first line names the columns `path` and `label`, `labels` or classes.

    Raises
    ------
    ValueError
        It cannot be read; names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
                labels_in, classes = _columns(path, header)
                rows = list(_rows(path, header, reader, labels_in))
            except csv.Error as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise ValueError(f"{path}: has no rows below its first line")
    _refuse_contradictions(path, rows)
    return Table(path, rows, _LABEL not in header, classes)


Labels = Callable[[Sequence[str]], tuple[str, ...]]


def _columns(path: Path, header: Sequence[str]) -> tuple[Labels, tuple[str, ...] | None]:
    """Return what finds the labels in a row, and the classes where each has a column."""
    kinds = [name for name in (_LABEL, _LABELS) if name in header]
    classes = tuple(name for name in header if name not in (_PATH, _SPLIT, *kinds))
    if _PATH not in header or len(kinds) > 1 or not (kinds or classes):
        raise ValueError(
            f"{path}: got the columns {', '.join(header) or 'of an empty file'}, needs a first "
            "line path,label or path,labels or path and a column for each class, with commas"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: has a column twice")
    if kinds == [_LABEL]:
        at = header.index(_LABEL)
        return lambda row: (row[at].strip(),), None
    if kinds == [_LABELS]:
        at = header.index(_LABELS)
        return lambda row: _split(row[at]), None
    places = [header.index(name) for name in classes]
    return lambda row: tuple(
        name for name, place in zip(classes, places, strict=True) if _is_one(row[place])
    ), classes


def _split(cell: str) -> tuple[str, ...]:
    labels = (label.strip() for label in cell.split(_BETWEEN_LABELS))
    return tuple(dict.fromkeys(label for label in labels if label))


def _is_one(cell: str) -> bool:
    values = {"0": False, "1": True, "0.0": False, "1.0": True}
    if cell.strip() not in values:
        raise ValueError(f"got {cell!r} in a class's column, needs 0 or 1")
    return values[cell.strip()]


def _rows(path: Path, header: Sequence[str], reader: Any, labels_in: Labels) -> Iterator[Row]:
    at = header.index(_PATH)
    split_at = header.index(_SPLIT) if _SPLIT in header else None
    for cells in reader:
        if not cells:
            continue
        where = f"{path}, line {reader.line_num}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: got {len(cells)} cells, needs {len(header)}")
        if not cells[at] or "\0" in cells[at]:
            raise ValueError(f"{where}: got no path")
        try:
            labels = labels_in(cells)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if _LABEL in header and not labels[0]:
            raise ValueError(f"{where}: got no label")
        split = None if split_at is None else cells[split_at].strip().lower()
        yield Row(cells[at], labels, _SPLITS.get(split, split) if split else split, reader.line_num)


def _refuse_contradictions(path: Path, rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row.path, row)
        if before.labels != row.labels:
            raise ValueError(
                f"{path}: lines {before.line} and {row.line} give {row.path} the labels "
                f"{_BETWEEN_LABELS.join(before.labels)} and {_BETWEEN_LABELS.join(row.labels)}; "
                f"several labels of an image stand in one line, in a column `{_LABELS}`"
            )
        if before.split != row.split:
            raise ValueError(
                f"{path}: lines {before.line} and {row.line} put {row.path} into two splits"
            )


def _of_split(table: Table, split: str) -> Table:
    rows = [row for row in table.rows if row.split in (None, split)]
    if not rows:
        given = sorted({str(row.split) for row in table.rows})
        raise ValueError(
            f"{table.path}: has no row of split {split}, only of {', '.join(given)}; "
            "needs train and val"
        )
    return table._replace(rows=rows)


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _numbered(table: Table, root: Path | None) -> Files:
    """Labels that are numbers are the labels, whichever are there."""
    for row in table.rows:
        if len(row.labels[0]) > 9 or int(row.labels[0]) > _LARGEST_LABEL:
            raise ValueError(f"{table.path}, line {row.line}: got the label {row.labels[0]}")
    return _files(table, [int(row.labels[0]) for row in table.rows], None, root)


def _named(table: Table, root: Path | None) -> Files:
    classes = in_order({row.labels[0] for row in table.rows})
    labels = {name: label for label, name in enumerate(classes)}
    return _files(table, [labels[row.labels[0]] for row in table.rows], classes, root)


def _classes_of(tables: Sequence[Table]) -> tuple[str, ...]:
    """Return the classes of images with several labels: those of training, in order."""
    train, val = tables
    if train.classes is not None or val.classes is not None:
        if train.classes != val.classes:
            raise ValueError(f"{train.path} and {val.path}: have different columns of classes")
        return train.classes or ()
    classes = in_order(set(itertools.chain.from_iterable(row.labels for row in train.rows)))
    for row in val.rows:
        for label in row.labels:
            if label not in classes:
                raise ValueError(
                    f"{val.path}, line {row.line}: no image to train on has the label {label}"
                )
    return classes


def _several(table: Table, classes: tuple[str, ...], root: Path | None) -> Files:
    places = {name: place for place, name in enumerate(classes)}
    has = np.zeros((len(table.rows), len(classes)), np.uint8)
    for index, row in enumerate(table.rows):
        has[index, [places[label] for label in row.labels]] = 1
    order = sorted(range(len(has)), key=lambda index: image_key(table.rows[index].path))
    return _in(table, order, has[order], classes, root)


def _files(
    table: Table, labels: Sequence[int], classes: tuple[str, ...] | None, root: Path | None
) -> Files:
    order = sorted(
        range(len(labels)), key=lambda index: (labels[index], image_key(table.rows[index].path))
    )
    return _in(table, order, np.array(labels, np.int32)[order], classes, root)


def _in(
    table: Table,
    order: Sequence[int],
    labels: NDArray[Any],
    classes: tuple[str, ...] | None,
    root: Path | None,
) -> Files:
    start = table.path.parent if root is None else root
    paths = [table.rows[index].path for index in order]
    if not any(os.path.exists(start / path) for path in paths[:_LOOKED_FOR]):
        raise ValueError(
            f"{table.path}: there is no {start / paths[0]}; paths start from the table's folder, "
            "or from --data-root"
        )
    return Files(start, PackedNames.of(paths), labels, classes)
