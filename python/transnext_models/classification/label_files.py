"""Names of classes from a user's file: lines of text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.errors import escaped, quoted
from ..checkpoints.limits import LONGEST_CLASS_NAME

__all__ = ["labels_of", "read_labels"]

_MOST_BYTES = 16 << 20
_NAME_COLUMNS = ("name", "label", "class", "class_name", "label_name", "names", "labels", "classes")
_INDEX_COLUMNS = ("index", "id", "class_id", "label_id", "class_index", "number", "idx")


def labels_of(labels: str | os.PathLike[str] | Sequence[str], num_classes: int) -> list[str]:
    """Return the names of a model's classes, which a caller gives as a file or one by one.

    Parameters
    ----------
    labels : str | os.PathLike[str] | Sequence[str]
        A file, see `read_labels`, or the names.
    num_classes : int
        Number of classes of the model.

    Raises
    ------
    ValueError
        If the file cannot be read, or the names are not as many as the classes.
    TypeError
        If a name is no text.
    """
    if isinstance(labels, (str, os.PathLike)):
        return read_labels(labels, num_classes)
    names = list(labels)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"labels: got {type(name).__name__}, needs names of classes")
    _check_count(names, num_classes, "labels: got")
    return names


def read_labels(path: str | os.PathLike[str], num_classes: int) -> list[str]:
    """Return the names of a model's classes that a file gives, in the order of the classes.

    Parameters
    ----------
    path : str | os.PathLike[str]
        UTF-8. The end of its name says what it holds:

        - ``.json``: a list of names, ``{"0": "cat", ...}`` or ``{"cat": 0, ...}``
          (transformers' ``config.json`` with ``id2label``, and timm's with ``label_names``, too);
        - ``.csv``, ``.tsv``: a column of names, or one of numbers and one of names, with or without
          a line of titles; where there are more columns, titles such as ``index`` and ``name`` say
          which;
        - anything else: one name on a line.
    num_classes : int
        Number of classes of the model.

    Raises
    ------
    ValueError
        If the file cannot be read, or its names are not one for each class; the message says where.
    """
    file = Path(path)
    text = _text(file)
    suffix = file.suffix.lower()
    try:
        if suffix == ".json":
            names = _from_json(text, num_classes)
        elif suffix in (".csv", ".tsv"):
            names = _from_table(text, "\t" if suffix == ".tsv" else ",", num_classes)
        else:
            names = [line.strip() for line in text.rstrip().splitlines()]
        _check_names(names)
    except ValueError as error:
        raise ValueError(f"labels: {escaped(str(file))}: {error}") from None
    _check_count(names, num_classes, f"labels: {escaped(str(file))} has")
    return names


def _text(file: Path) -> str:
    shown = escaped(str(file))
    try:
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "not there"
            raise ValueError(f"labels: the file {shown} is {kind}")
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"labels: {shown} has more than {_MOST_BYTES >> 20} MiB")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"labels: {shown} cannot be read: {reason}") from error
    except UnicodeDecodeError:
        raise ValueError(f"labels: {shown} is no text in UTF-8") from None


def _check_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if not name:
            raise ValueError(f"the name of class {index} is empty")
        if len(name) > LONGEST_CLASS_NAME:
            raise ValueError(
                f"the name of class {index} has more than {LONGEST_CLASS_NAME} characters"
            )


def _check_count(names: Sequence[str], num_classes: int, got: str) -> None:
    if len(names) != num_classes:
        plural = "s" * (len(names) != 1)
        raise ValueError(
            f"{got} {len(names)} name{plural}, needs {num_classes}, one for each class of the model"
        )


def _by_index(pairs: Iterable[tuple[int, str]], num_classes: int) -> list[str]:
    """Return the names in the order of their numbers, which must be 0 to ``num_classes - 1``."""
    names: dict[int, str] = {}
    for index, name in pairs:
        if not 0 <= index < num_classes:
            raise ValueError(f"got class {index}, needs numbers from 0 to {num_classes - 1}")
        if index in names:
            raise ValueError(f"class {index} is named twice, {quoted(names[index])} first")
        names[index] = name
    missing = [index for index in range(num_classes) if index not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"class {missing[0]}{more} of the model's {num_classes} has no name")
    return [names[index] for index in range(num_classes)]


# -- JSON -----------------------------------------------------------------------------------------


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with all of its entries; a dict would drop what comes twice."""


def _from_json(text: str, num_classes: int) -> list[str]:
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if isinstance(document, _Pairs):
        for key in ("id2label", "label_names", "class_names"):  # of a model's configuration
            found = [value for name, value in document if name == key]
            if found and isinstance(found[0], list):  # which objects are here, too
                document = found[0]
                break
    if isinstance(document, _Pairs):
        return _by_index(map(_numbered(document), document), num_classes)
    if not isinstance(document, list) or not all(isinstance(name, str) for name in document):
        raise ValueError("needs a list of names, {index: name} or {name: index}")
    return document


def _numbered(pairs: _Pairs) -> Callable[[tuple[str, Any]], tuple[int, str]]:
    """Return what makes (number, name) of an entry: names are the values, or else the keys."""
    if all(isinstance(value, str) for _, value in pairs):
        return lambda pair: (_index(pair[0]), pair[1])
    if all(type(value) is int for _, value in pairs):
        return lambda pair: (pair[1], pair[0])
    raise ValueError("needs a list of names, {index: name} or {name: index}")


def _index(text: str) -> int:
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdecimal() and len(stripped) < 10):
        raise ValueError(f"got {quoted(text)}, needs the number of a class")
    return int(stripped)


# -- tables ---------------------------------------------------------------------------------------


def _from_table(text: str, delimiter: str, num_classes: int) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [[cell.strip() for cell in row] for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if not rows:
        return []
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} columns, the first has {width}")
    # A first line with a number in it is a class, also one called `name`.
    titled = not any(map(_is_index, rows[0]))
    titles = {title.lower(): at for at, title in reversed(list(enumerate(rows[0]))) if titled}
    name_column, index_column = _titled(titles, _NAME_COLUMNS), _titled(titles, _INDEX_COLUMNS)
    if width == 1:
        has_title = name_column is not None and len(rows) == num_classes + 1
        return [row[0] for row in rows[has_title:]]
    if width > 2 and (name_column is None or index_column is None):
        raise ValueError(f"it has {width} columns, and no titles 'index' and 'name' say which")
    body = rows[titled:]
    if index_column is None:
        numbers = [all(_is_index(row[column]) for row in body) for column in range(width)]
        if not any(numbers):
            raise ValueError("needs a column with the numbers of the classes")
        index_column = numbers.index(True)
    if name_column is None or name_column == index_column:
        name_column = 1 - index_column
    return _by_index(((_index(row[index_column]), row[name_column]) for row in body), num_classes)


def _titled(titles: Mapping[str, int], known: Sequence[str]) -> int | None:
    return next((titles[title] for title in known if title in titles), None)


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()
