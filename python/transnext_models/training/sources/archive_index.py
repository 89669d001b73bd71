"""Where each image of some archives lies, kept between runs.

The index of ImageNet's training archive is 80 MB and takes a read for each of 1.3 million headers.
It is kept in the user's cache (`$XDG_CACHE_HOME/transnext`, `~/.cache` without it), under a name
that is a digest of the archives' paths, sizes and times of change, so that no index is used for
other archives. Where it cannot be kept, every run makes it anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...images.formats import readable_suffixes
from .classes import image_key, in_order
from .packed_names import PackedNames

__all__ = ["ArchiveIndex", "Entry", "cache_folder", "digest_of", "indexed"]

_VERSION = 1  # of the arrays below and of their order
_NOTICED = 1 << 30  # bytes of archives from which on making an index is announced


class Entry(NamedTuple):
    """An image in an archive.

    Parameters
    ----------
    label : str | int
        Its class by name, or its label where classes have no names; the same kind for all images.
    name : str
        Of the image, from its class on.
    archive : int
        The archive's place among all.
    offset, size : int
        Its bytes in there.
    """

    label: str | int
    name: str
    archive: int
    offset: int
    size: int


class ArchiveIndex(NamedTuple):
    """Images in archives, in the order of their labels and then of their names.

    Parameters
    ----------
    names : PackedNames
        Of the images.
    labels, archives : int32 [n]
        Of each image, and the archive's place among all.
    offsets, sizes : int64 [n]
        Its bytes.
    classes : tuple[str, ...]
        Names of the classes; none where labels are bare numbers.
    """

    names: PackedNames
    labels: NDArray[np.int32]
    archives: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    classes: tuple[str, ...]


def indexed(
    kind: str, files: Sequence[Path], entries: Callable[[], Iterable[Entry]]
) -> ArchiveIndex:
    """Return the kept index of archives, or make it and keep it.

    Parameters
    ----------
    kind : str
        How the archives are read.
    files : Sequence[Path]
        All files that the index depends on.
    entries : Callable[[], Iterable[Entry]]
        Reads the archives.
    """
    folder = cache_folder()
    digest = digest_of([_VERSION, kind, sorted(readable_suffixes())], files)
    kept = None if folder is None else folder / f"{digest[:32]}.npz"
    index = None if kept is None else _kept(kept)
    if index is None:
        if sum(path.stat().st_size for path in files) >= _NOTICED:
            print(f"reading what {files[0]} holds, once", file=sys.stderr, flush=True)
        index = _made(entries())
        if kept is not None:
            _keep(index, kept)
    return index


def digest_of(kind: Any, files: Sequence[Path]) -> str:
    """Return a digest of what is made of some files, and of their paths, sizes and times."""
    found = ((path, path.stat()) for path in files)
    stamps = [(str(path.resolve()), state.st_size, state.st_mtime_ns) for path, state in found]
    return hashlib.sha256(json.dumps([kind, stamps]).encode()).hexdigest()


def cache_folder() -> Path | None:
    """Return where what archives hold is kept between runs; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transnext"
    except RuntimeError:
        return None


def _made(entries: Iterable[Entry]) -> ArchiveIndex:
    names: list[str] = []
    numbers: dict[str | int, int] = {}  # of labels, in the order in which they come
    columns = tuple(array("q") for _ in range(4))
    for label, name, *place in entries:
        names.append(name)
        row = (numbers.setdefault(label, len(numbers)), *place)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    labels, archives, offsets, sizes = (np.array(column, np.int64) for column in columns)
    texts = [label for label in numbers if isinstance(label, str)]
    classes = in_order(texts)
    ranks = {name: rank for rank, name in enumerate(classes)}
    final = [ranks[label] if isinstance(label, str) else label for label in numbers]
    labels = np.array(final, np.int64)[labels] if len(labels) else labels
    order = _order(labels, names)
    return ArchiveIndex(
        PackedNames.of(names[index] for index in order.tolist()),
        labels[order].astype(np.int32),
        archives[order].astype(np.int32),
        offsets[order],
        sizes[order],
        classes,
    )


def _order(labels: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the permutation that sorts by label, then name; class by class, to save memory."""
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    for part in np.split(order, bounds):  # views
        part[:] = sorted(part.tolist(), key=lambda index: image_key(names[index]))
    return order


_ARRAYS = {
    "letters": np.uint8,
    "ends": np.int64,
    "labels": np.int32,
    "archives": np.int32,
    "offsets": np.int64,
    "sizes": np.int64,
}


def _keep(index: ArchiveIndex, target: Path) -> None:
    """Write an index, beside others that do the same; a cache that cannot be written is none."""
    arrays = {
        "letters": index.names.letters,
        "ends": index.names.ends,
        **{name: getattr(index, name) for name in list(_ARRAYS)[2:]},
        "classes": np.array(index.classes, dtype=np.str_),
    }
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
            try:
                np.savez(file, **arrays)
                file.flush()
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise


def _kept(path: Path) -> ArchiveIndex | None:
    """Read an index, if it is there and whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: np.asarray(arrays[name]) for name in _ARRAYS}
            classes = tuple(arrays["classes"].tolist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if any(columns[name].dtype != dtype for name, dtype in _ARRAYS.items()):
        return None
    letters = columns.pop("letters")
    names = PackedNames(letters, columns.pop("ends"))
    if {len(column) for column in columns.values()} != {len(names)}:
        return None
    return ArchiveIndex(names, classes=classes, **columns)
