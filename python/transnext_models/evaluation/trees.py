"""Folders of images, on disk or in archives, seen in one way.

Archives are read by the readers of training (`training.sources`), which refuse what does not belong
in a data set and keep an index of what lies where, and the tar in one that is compressed.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ..images.formats import is_image_name
from ..training.sources.archive_index import Entry, indexed
from ..training.sources.archives import ArchivedImages, archive_members, images_of
from ..training.sources.decompressed import decompressed
from ..training.sources.folders import visible_entries
from ..training.sources.tar_members import ArchiveError, Member
from ..training.sources.zip_archive import ZipArchive, is_zip

__all__ = ["ArchiveTree", "FolderTree", "Tree", "ZipTree", "joined", "open_parts", "open_tree"]

_TARS = (".tar", ".tar.gz", ".tgz")  # of one in several forms the first


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
        A folder, a zip, or a tar, which may be gzip'ed: it is decompressed once.
    is_part : callable, optional
        Whether a tar of this name, without ``.tar`` and what follows, in the folder is to be seen
        as the folder of that name. Folders of such names that are there go before.

    Raises
    ------
    ValueError
        If there is none, or it is damaged or compressed in another way.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"{option}: got {place}, which does not exist")
    if place.is_dir():
        tree = FolderTree(place)
        if is_part is None or any(map(is_part, tree.folders())):
            return tree
        return open_parts(option, place, is_part) or tree
    if not place.is_file():
        raise _Unusable(option, place, "it is none of them")
    return _opened(option, place, {"": place})


def open_parts(option: str, folder: Path, is_part: Callable[[str], bool]) -> Tree | None:
    """Return the archives in a folder as the folders of their names; None if there are none."""
    parts = {name: file for name, file in _archives_in(folder).items() if is_part(name)}
    return _opened(option, folder, parts) if parts else None


def _opened(option: str, place: Path, archives: Mapping[str, Path]) -> Tree:
    try:
        if place.is_file() and is_zip(place):
            return ZipTree(place)
        return ArchiveTree(place, archives)
    except ArchiveError as error:
        raise _Unusable(option, *error.args) from error


class _Unusable(ValueError):
    def __init__(self, option: str, place: Path | str, fault: str) -> None:
        super().__init__(f"{option}: got {place}, needs a folder, a tar or a zip: {fault}")


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
        of this name again, as in those of single classes, lies in the first. Those that are
        compressed are decompressed once.
    """

    def __init__(self, place: Path, archives: Mapping[str, Path]) -> None:
        self.name = str(place)
        archives = {name: decompressed(file) for name, file in archives.items()}
        files = list(archives.values())
        index = indexed(f"folders {list(archives)}", files, lambda: _entries(archives))
        self._archives = ArchivedImages(files, index)
        self._names = index.names
        labels = np.arange(len(index.classes) + 1)
        bounds = np.searchsorted(index.labels, labels).tolist()
        self._spans = dict(zip(index.classes, itertools.pairwise(bounds), strict=True))
        self._folders = _folders_of((*archives, *index.classes))

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


class ZipTree:
    """A zip, its images read where they lie."""

    def __init__(self, place: Path) -> None:
        self.name = str(place)
        self._archive = ZipArchive(place)
        self._images: dict[str, list[str]] = {}
        for path in sorted(member.name for member in images_of(self._archive.members())):
            folder, name = posixpath.split(path)
            self._images.setdefault(folder, []).append(name)
        self._folders = _folders_of(self._images)

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        return sorted(self._folders[at])

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        return self._images.get(at, [])

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading: its bytes, which are small."""
        return io.BytesIO(self._archive.read(path))


def _folders_of(paths: Iterable[str]) -> dict[str, set[str]]:
    """Return the names of the folders in each folder, of those at some paths and above them."""
    folders: dict[str, set[str]] = {"": set()}
    for path in paths:
        while path:
            above, name = posixpath.split(path)
            folders.setdefault(path, set())
            folders.setdefault(above, set()).add(name)
            path = above
    return folders


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
    """Return the tars in a folder by their names without ``.tar`` and what follows."""
    found: dict[str, Path] = {}
    entries = sorted(visible_entries(folder), key=lambda entry: entry.name)
    for suffix in _TARS:
        for entry in entries:
            if entry.name.lower().endswith(suffix) and entry.is_file():
                found.setdefault(entry.name[: -len(suffix)], Path(entry.path))
    return found
