"""Folders of images, on disk or in archives, seen in one way.

Archives are read by the readers of training (`training.sources`), which refuse what does not belong
in a data set and keep an index of what lies where.
"""

from __future__ import annotations

import bisect
import itertools
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ..images.formats import is_image_name
from ..training.sources.archive_index import Entry, indexed
from ..training.sources.archives import ArchivedImages, archive_members, images_of
from ..training.sources.folders import visible_entries
from ..training.sources.tar_members import ArchiveError, Member

__all__ = ["ArchiveTree", "FolderTree", "Tree", "joined", "open_parts", "open_tree"]

_TAR = ".tar"
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".zip", ".7z")


class Tree(Protocol):
    """A tree of folders with images. Paths are relative, with slashes; "" is the root.

    Hidden folders and files are left out, and files that are not named as images.
    """

    name: str
    """What errors call it."""

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading."""


def open_tree(
    option: str, path: str | os.PathLike[str], is_part: Callable[[str], bool] | None = None
) -> Tree:
    """Return the tree in a folder, an archive, or a folder of archives.

    Parameters
    ----------
    option : str
        The argument that names it.
    path : str | os.PathLike[str]
        A folder, or an uncompressed tar.
    is_part : callable, optional
        Whether an archive of this name, without ``.tar``, in the folder is to be seen as the folder
        of that name. Folders of such names that are there go before.

    Raises
    ------
    ValueError
        If there is none, or it is compressed, which gives no access to a single image, or damaged.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"{option}: got {place}, which does not exist")
    if place.is_dir():
        tree = FolderTree(place)
        if is_part is None or any(map(is_part, tree.folders())):
            return tree
        return open_parts(option, place, is_part) or tree
    if not place.is_file() or place.suffix.lower() in _COMPRESSED:
        raise _Unusable(option, place, "unpack it" if place.is_file() else "it is neither")
    return _opened(option, place, {"": place})


def open_parts(option: str, folder: Path, is_part: Callable[[str], bool]) -> Tree | None:
    """Return the archives in a folder as the folders of their names; None if there are none."""
    parts = {name: file for name, file in _archives_in(folder).items() if is_part(name)}
    return _opened(option, folder, parts) if parts else None


def _opened(option: str, place: Path, archives: Mapping[str, Path]) -> Tree:
    try:
        return ArchiveTree(place, archives)
    except ArchiveError as error:
        raise _Unusable(option, *error.args) from error


class _Unusable(ValueError):
    def __init__(self, option: str, place: Path | str, fault: str) -> None:
        super().__init__(f"{option}: got {place}, needs a folder or an uncompressed tar: {fault}")


def joined(at: str, name: str) -> str:
    """Return the path of `name` in the folder `at`."""
    return f"{at}/{name}" if at and name else at or name


class FolderTree:
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        return sorted(entry.name for entry in visible_entries(self.root / at) if entry.is_dir())

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        return sorted(
            entry.name
            for entry in visible_entries(self.root / at)
            if is_image_name(Path(entry.name)) and not entry.is_dir()
        )

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading."""
        return open(self.root / path, "rb")


class ArchiveTree:
    """Archives as they are downloaded, each the content of a folder.

    Parameters
    ----------
    place : Path
        What errors name: the archive, or the folder of several.
    archives : mapping of str to Path
        By the folder whose content each is, "" for the root. What lies in an archive in a folder
        of this name again, as in those of single classes, lies in the first.
    """

    def __init__(self, place: Path, archives: Mapping[str, Path]) -> None:
        self.name = str(place)
        files = list(archives.values())
        index = indexed(f"folders {list(archives)}", files, lambda: _entries(archives))
        self._archives = ArchivedImages(files, index)
        self._names = index.names
        labels = np.arange(len(index.classes) + 1)
        bounds = np.searchsorted(index.labels, labels).tolist()
        self._spans = dict(zip(index.classes, itertools.pairwise(bounds), strict=True))
        self._folders: dict[str, set[str]] = {"": set()}
        for path in (*archives, *index.classes):
            while path:
                above, name = posixpath.split(path)
                self._folders.setdefault(path, set())
                self._folders.setdefault(above, set()).add(name)
                path = above

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        return sorted(self._folders[at])

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        return [self._names[index] for index in range(*self._spans.get(at, (0, 0)))]

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading: its bytes, which are small."""
        folder, name = posixpath.split(path)
        start, stop = self._spans.get(folder, (0, 0))
        index = bisect.bisect_left(self._names, name, start, stop)
        if index == stop or self._names[index] != name:
            raise FileNotFoundError(path)
        return self._archives.open(index)


def _entries(archives: Mapping[str, Path]) -> Iterator[Entry]:
    for number, (mount, file) in enumerate(archives.items()):
        last: dict[str, Member] = {}  # a later member of the name replaces one, as in unpacking
        for member in images_of(archive_members(file)):
            name = member.name.removeprefix(f"{mount}/") if mount else member.name
            last[joined(mount, name)] = member
        for path, member in last.items():
            folder, name = posixpath.split(path)
            yield Entry(folder, name, number, member.offset, member.size)


def _archives_in(folder: Path) -> dict[str, Path]:
    """Return the archives in a folder by their names without ``.tar``."""
    return {
        Path(entry.name).stem: Path(entry.path)
        for entry in sorted(visible_entries(folder), key=lambda entry: entry.name)
        if Path(entry.name).suffix.lower() == _TAR and entry.is_file()
    }
